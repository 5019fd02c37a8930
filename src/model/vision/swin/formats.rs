//! Swin transformers as transformers publishes them.

use anyhow::Result;
use serde_json::json;

use super::config::SwinConfig;
use crate::model::format::json::Section;
use crate::model::format::rename::How::Same;
use crate::model::format::rename::Rule;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::vision::tower::VisionConfig;

type Config = Box<dyn VisionConfig>;

pub const FORMATS: &[TowerFormat<Config>] = &[TowerFormat {
    prefixes: &["", "swin."],
    unused: &[
        Unused::dropped("classifier.**", "a classifier's head, not part of the tower"),
        Unused::carried("embeddings.mask_token", "used in pretraining only"),
        Unused::dropped("encoder.layers.*.blocks.*.attention.self.relative_position_index", "worked out again"),
    ],
    pairs: true,
    ..TowerFormat::new(&["swin"], swin, &[SWIN])
}];

const SWIN: &[Rule] = &[
    ("embeddings.patch_embeddings.projection.*", "embeddings.patch_embedding.*", Same),
    ("embeddings.norm.*", "embeddings.norm.*", Same),
    ("encoder.layers.*.blocks.*.attention.self.query.*", "encoder.stages.*.layers.*.self_attn.q_proj.*", Same),
    ("encoder.layers.*.blocks.*.attention.self.key.*", "encoder.stages.*.layers.*.self_attn.k_proj.*", Same),
    ("encoder.layers.*.blocks.*.attention.self.value.*", "encoder.stages.*.layers.*.self_attn.v_proj.*", Same),
    ("encoder.layers.*.blocks.*.attention.output.dense.*", "encoder.stages.*.layers.*.self_attn.out_proj.*", Same),
    (
        "encoder.layers.*.blocks.*.attention.self.relative_position_bias_table",
        "encoder.stages.*.layers.*.self_attn.relative_position_bias.table",
        Same,
    ),
    ("encoder.layers.*.blocks.*.layernorm_before.*", "encoder.stages.*.layers.*.layer_norm1.*", Same),
    ("encoder.layers.*.blocks.*.layernorm_after.*", "encoder.stages.*.layers.*.layer_norm2.*", Same),
    ("encoder.layers.*.blocks.*.intermediate.dense.*", "encoder.stages.*.layers.*.mlp.fc1.*", Same),
    ("encoder.layers.*.blocks.*.output.dense.*", "encoder.stages.*.layers.*.mlp.fc2.*", Same),
    ("encoder.layers.*.downsample.*.*", "encoder.stages.*.downsample.*.*", Same),
    ("layernorm.*", "layernorm.*", Same),
];

fn swin(s: &Section, pooling: Pooling) -> Result<Config> {
    s.refuse_unless("num_channels", &json!(3))?;
    s.refuse_unless("qkv_bias", &json!(true))?;
    s.refuse_unless("use_absolute_embeddings", &json!(false))?;
    if !matches!(pooling, Pooling::Mean | Pooling::Pooler) {
        return Err(pooling.refused("image_pooling", "Swin", "mean and pooler, which are the same"));
    }
    Ok(Box::new(SwinConfig {
        embed_dim: s.size("embed_dim", 96)?,
        depths: s.depths("depths", &[2, 2, 6, 2])?,
        heads: s.sizes("num_heads", &[3, 6, 12, 24])?,
        window: s.size("window_size", 7)?,
        mlp_ratio: s.ratio("mlp_ratio", 4.0)?,
        image_size: s.side("image_size", 224)?,
        patch_size: s.side("patch_size", 4)?,
        activation: s.activation("hidden_act", "gelu")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-5)?,
    }))
}
