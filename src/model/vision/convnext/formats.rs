//! ConvNeXts as transformers publishes them.

use anyhow::Result;
use serde_json::json;

use super::config::ConvNextConfig;
use crate::model::format::json::Section;
use crate::model::format::rename::How::{Leading, Same};
use crate::model::format::rename::Rule;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::vision::tower::VisionConfig;

type Config = Box<dyn VisionConfig>;

pub const FORMATS: &[TowerFormat<Config>] = &[TowerFormat {
    prefixes: &["", "convnext.", "convnextv2."],
    unused: &[
        Unused::dropped("classifier.**", "a classifier's head, not part of the tower"),
        Unused::carried("layernorm.**", "not used with this pooling"),
    ],
    ..TowerFormat::new(&["convnext", "convnextv2"], convnext, &[CONVNEXT])
}];

const CONVNEXT: &[Rule] = &[
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("encoder.stages.*.downsampling_layer.*.*", "encoder.stages.*.downsampling_layer.*.*", Same),
    ("encoder.stages.*.layers.*.layer_scale_parameter", "encoder.stages.*.layers.*.layer_scale_parameter", Same),
    ("encoder.stages.*.layers.*.grn.*", "encoder.stages.*.layers.*.grn.*", Leading(3)),
    ("encoder.stages.*.layers.*.*.*", "encoder.stages.*.layers.*.*.*", Same),
    ("layernorm.*", "layernorm.*", Same),
];

/// Configs say nothing of the image's size; the preprocessing does.
const ANY_SIZE: usize = 224;

fn convnext(s: &Section, pooling: Pooling) -> Result<Config> {
    s.refuse_unless("num_channels", &json!(3))?;
    let v2 = s.text("model_type")? == Some("convnextv2");
    let pooler_norm = match pooling {
        Pooling::Pooler => true,
        Pooling::Mean => false,
        other => return Err(other.refused("image_pooling", "ConvNeXt", "mean and pooler")),
    };
    Ok(Box::new(ConvNextConfig {
        hidden: s.sizes("hidden_sizes", &[96, 192, 384, 768])?,
        depths: s.depths("depths", &[3, 3, 9, 3])?,
        patch_size: s.side("patch_size", 4)?,
        image_size: s.side("image_size", ANY_SIZE)?,
        activation: s.activation("hidden_act", "gelu")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-12)?,
        layer_scale: !v2 && s.number("layer_scale_init_value", 1e-6)? > 0.0,
        response_norm: v2,
        pooler_norm,
    }))
}
