//! ResNets as transformers publishes them.

use anyhow::{Result, bail};
use serde_json::json;

use super::config::{ResNetConfig, ResNetPool};
use crate::model::format::json::Section;
use crate::model::format::rename::How::Same;
use crate::model::format::rename::Rule;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::vision::tower::VisionConfig;

type Config = Box<dyn VisionConfig>;

pub const FORMATS: &[TowerFormat<Config>] = &[TowerFormat {
    prefixes: &["", "resnet."],
    unused: &[Unused::dropped("classifier.**", "a classifier's head, not part of the tower")],
    ..TowerFormat::new(&["resnet"], resnet, &[RESNET])
}];

const RESNET: &[Rule] = &[
    ("embedder.embedder.*.*", "embedder.embedder.*.*", Same),
    ("encoder.stages.*.layers.*.layer.*.*.*", "encoder.stages.*.layers.*.layer.*.*.*", Same),
    ("encoder.stages.*.layers.*.shortcut.*.*", "encoder.stages.*.layers.*.shortcut.*.*", Same),
];

/// Configs say nothing of the image's size; the preprocessing does.
const ANY_SIZE: usize = 224;

fn resnet(s: &Section, pooling: Pooling) -> Result<Config> {
    s.refuse_unless("num_channels", &json!(3))?;
    s.refuse_unless("hidden_act", &json!("relu"))?;
    if !matches!(pooling, Pooling::Mean | Pooling::Pooler) {
        return Err(pooling.refused("image_pooling", "ResNet", "mean and pooler, which are the same"));
    }
    let bottleneck = match s.text("layer_type")?.unwrap_or("bottleneck") {
        "bottleneck" => true,
        "basic" => false,
        other => bail!("layer_type is {other:?}; known are bottleneck and basic"),
    };
    Ok(Box::new(ResNetConfig {
        embedding: s.size("embedding_size", 64)?,
        hidden: s.sizes("hidden_sizes", &[256, 512, 1024, 2048])?,
        depths: s.depths("depths", &[3, 4, 6, 3])?,
        bottleneck,
        downsample_in_first_stage: s.flag("downsample_in_first_stage", false)?,
        downsample_in_bottleneck: s.flag("downsample_in_bottleneck", false)?,
        clip: false,
        image_size: ANY_SIZE,
        pool: ResNetPool::Mean,
    }))
}
