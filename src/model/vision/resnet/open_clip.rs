//! CLIP's ResNet within open_clip's models.

use anyhow::{Result, ensure};

use super::config::{ResNetConfig, ResNetPool};
use crate::model::format::json::Section;
use crate::model::format::open_clip::{OpenClipReader, OpenClipTower};
use crate::model::format::rename::How::Same;
use crate::model::format::rename::Rule;
use crate::model::layers::projection::Projection;
use crate::model::vision::tower::VisionConfig;

type Config = Box<dyn VisionConfig>;

pub const OPEN_CLIP: OpenClipTower<Config> = OpenClipTower { claims, read };

/// CLIP's ResNet outside its stages.
const RESNET: &[Rule] = &[
    ("attnpool.positional_embedding", "vision_model.attention_pool.position_embedding.weight", Same),
    ("attnpool.c_proj.*", "visual_projection.*", Same),
    ("attnpool.*.*", "vision_model.attention_pool.*.*", Same),
];

fn claims(s: &Section) -> Result<bool> {
    Ok(s.text("timm_model_name")?.is_none() && s.json.get("layers").is_some_and(serde_json::Value::is_array))
}

fn read(reader: &mut OpenClipReader, s: &Section) -> Result<(Config, Projection)> {
    let (width, depths) = (s.size("width", 64)?, s.depths("layers", &[3, 4, 6, 3])?);
    ensure!(depths.len() == 4, "vision_cfg.layers is {depths:?}; a ResNet has 4 stages");
    let mut rule = |theirs: String, ours: String| {
        reader.renames.push(format!("visual.{theirs}"), format!("vision_model.{ours}"), Same);
    };
    for i in 1..=3 {
        rule(format!("conv{i}.weight"), format!("embedder.{}.convolution.weight", i - 1));
        rule(format!("bn{i}.*"), format!("embedder.{}.normalization.*", i - 1));
    }
    for stage in 1..=4 {
        let (theirs, ours) = (format!("layer{stage}.*"), format!("encoder.stages.{}.layers.*", stage - 1));
        for i in 1..=3 {
            rule(format!("{theirs}.conv{i}.weight"), format!("{ours}.layer.{}.convolution.weight", i - 1));
            rule(format!("{theirs}.bn{i}.*"), format!("{ours}.layer.{}.normalization.*", i - 1));
        }
        rule(format!("{theirs}.downsample.0.weight"), format!("{ours}.shortcut.convolution.weight"));
        rule(format!("{theirs}.downsample.1.*"), format!("{ours}.shortcut.normalization.*"));
    }
    reader.renames.add(RESNET, "visual.", "");
    let config = ResNetConfig {
        embedding: width,
        hidden: (0..4).map(|stage| (4 * width) << stage).collect(),
        depths,
        bottleneck: true,
        downsample_in_first_stage: false,
        downsample_in_bottleneck: false,
        clip: true,
        image_size: s.side("image_size", 224)?,
        pool: ResNetPool::Attention { heads: width * 32 / s.size("head_width", 64)? },
    };
    Ok((Box::new(config), Projection::Linear { bias: true }))
}
