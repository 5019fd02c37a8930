//! Vision transformers as transformers publishes them.

use anyhow::{Result, bail};
use serde_json::json;

use super::config::{Prefix, VitConfig, VitPool};
use super::names::{BEIT, CLIP, DINOV2, SIGLIP_HEAD, SIGLIP2_PATCHES, VIT};
use crate::model::format::json::Section;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::vision::tower::VisionConfig;

type Config = Box<dyn VisionConfig>;

const CLASSIFIER: Unused = Unused::dropped("classifier.**", "a classifier's head, not part of the tower");
const POOLER: Unused = Unused::carried("pooler.**", "not used with this pooling");
const MASK: Unused = Unused::carried("embeddings.mask_token", "used in pretraining only");
const POSITION_IDS: Unused = Unused::dropped("embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight");

pub const FORMATS: &[TowerFormat<Config>] = &[
    TowerFormat {
        section: "vision_config",
        prefixes: &["", "vision_model."],
        unused: &[POSITION_IDS],
        pairs: true,
        ..TowerFormat::new(&["clip", "clip_vision_model", "chinese_clip", "chinese_clip_vision_model"], clip, &[CLIP])
    },
    TowerFormat {
        section: "vision_config",
        prefixes: &["", "vision_model."],
        unused: &[POSITION_IDS, Unused::carried("head.**", "not used with this pooling")],
        ..TowerFormat::new(&["siglip", "siglip_vision_model"], siglip, &[CLIP, SIGLIP_HEAD])
    },
    TowerFormat {
        whole_only: true,
        ..TowerFormat::new(&["siglip2_vision_model"], siglip, &[SIGLIP2_PATCHES, CLIP, SIGLIP_HEAD])
    },
    TowerFormat {
        prefixes: &["", "vit."],
        pooler: Some("pooler.dense.weight"),
        unused: &[CLASSIFIER, POOLER, MASK],
        pairs: true,
        ..TowerFormat::new(&["vit"], vit, &[VIT])
    },
    TowerFormat {
        prefixes: &["", "deit."],
        pooler: Some("pooler.dense.weight"),
        unused: &[CLASSIFIER, Unused { pattern: "cls_classifier.**", ..CLASSIFIER }, POOLER, MASK],
        pairs: true,
        ..TowerFormat::new(&["deit"], deit, &[VIT])
    },
    TowerFormat {
        prefixes: &["", "dinov2.", "dinov2_with_registers."],
        unused: &[CLASSIFIER, MASK],
        pairs: true,
        ..TowerFormat::new(&["dinov2", "dinov2_with_registers"], dinov2, &[DINOV2, VIT])
    },
    TowerFormat {
        prefixes: &["", "beit."],
        unused: &[
            CLASSIFIER,
            MASK,
            POOLER,
            Unused::dropped(
                "encoder.layer.*.attention.attention.relative_position_bias.relative_position_index",
                "worked out again",
            ),
        ],
        pairs: true,
        ..TowerFormat::new(&["beit"], beit, &[VIT, BEIT])
    },
];

/// A ViT's numbers under the names that most configs share.
fn transformer(s: &Section, act: &str, eps: f64) -> Result<VitConfig> {
    s.refuse_unless("num_channels", &json!(3))?;
    Ok(VitConfig {
        width: s.size("hidden_size", 768)?,
        intermediate: s.size("intermediate_size", 3072)?,
        layers: s.size("num_hidden_layers", 12)?,
        heads: s.size("num_attention_heads", 12)?,
        image_size: s.side("image_size", 224)?,
        patch_size: s.side("patch_size", 16)?,
        activation: s.activation("hidden_act", act)?,
        layer_norm_eps: s.number("layer_norm_eps", eps)?,
        prefix: Prefix::CLASS_TOKEN,
        positions: true,
        prefix_positions: true,
        patch_bias: true,
        pre_norm: false,
        final_norm: true,
        layer_scale: false,
        key_bias: true,
        relative_positions: false,
        pool: VitPool::Cls,
    })
}

fn clip(s: &Section, pooling: Pooling) -> Result<Config> {
    let base = transformer(s, "quick_gelu", 1e-5)?;
    let pool = match pooling {
        Pooling::Cls | Pooling::Pooler => VitPool::Cls,
        other => return Err(other.refused("image_pooling", "CLIP's image tower", "cls and pooler")),
    };
    let patch_size = s.side("patch_size", 32)?;
    Ok(Box::new(VitConfig { patch_size, patch_bias: false, pre_norm: true, pool, ..base }))
}

fn siglip(s: &Section, pooling: Pooling) -> Result<Config> {
    let mut base = transformer(s, "gelu_pytorch_tanh", 1e-6)?;
    if let Some(patches) = s.optional_size("num_patches")? {
        // SigLIP 2 of variable resolution, taken at the size that its positions were learnt at.
        let grid = patches.isqrt();
        if grid * grid != patches {
            bail!("{}.num_patches is {patches}, which is no square", s.name);
        }
        base.image_size = grid * base.patch_size;
    }
    let pool = match pooling {
        Pooling::Pooler if s.flag("vision_use_head", true)? => VitPool::Attention,
        Pooling::Mean => VitPool::Mean,
        other => {
            return Err(other.refused(
                "image_pooling",
                "SigLIP's image tower",
                "pooler (where it has its head) and mean",
            ));
        }
    };
    let prefix = Prefix { class_token: false, ..Prefix::CLASS_TOKEN };
    Ok(Box::new(VitConfig { prefix, pool, ..base }))
}

fn vit(s: &Section, pooling: Pooling) -> Result<Config> {
    Ok(Box::new(plain_vit(s, pooling)?))
}

fn plain_vit(s: &Section, pooling: Pooling) -> Result<VitConfig> {
    s.refuse_unless("qkv_bias", &json!(true))?;
    s.refuse_unless("pooler_act", &json!("tanh"))?;
    let pool = match pooling {
        Pooling::Cls => VitPool::Cls,
        Pooling::Mean => VitPool::Mean,
        Pooling::Pooler => VitPool::Dense,
        other => return Err(other.refused("image_pooling", "ViT", "cls, mean and pooler")),
    };
    Ok(VitConfig { pool, ..transformer(s, "gelu", 1e-12)? })
}

fn deit(s: &Section, pooling: Pooling) -> Result<Config> {
    let prefix = Prefix { distillation_token: true, ..Prefix::CLASS_TOKEN };
    Ok(Box::new(VitConfig { prefix, ..plain_vit(s, pooling)? }))
}

fn dinov2(s: &Section, pooling: Pooling) -> Result<Config> {
    s.refuse_unless("qkv_bias", &json!(true))?;
    s.refuse_unless("use_swiglu_ffn", &json!(false))?;
    let base = transformer(s, "gelu", 1e-6)?;
    let registers = match s.text("model_type")? {
        Some("dinov2_with_registers") => s.size("num_register_tokens", 4)?,
        _ => 0,
    };
    let pool = match pooling {
        Pooling::Cls | Pooling::Pooler => VitPool::Cls,
        Pooling::Mean => VitPool::Mean,
        other => return Err(other.refused("image_pooling", "DINOv2", "cls, mean and pooler")),
    };
    Ok(Box::new(VitConfig {
        intermediate: base.width * s.size("mlp_ratio", 4)?,
        prefix: Prefix { registers, ..Prefix::CLASS_TOKEN },
        layer_scale: true,
        pool,
        ..base
    }))
}

fn beit(s: &Section, pooling: Pooling) -> Result<Config> {
    s.refuse_unless("use_shared_relative_position_bias", &json!(false))?;
    let base = transformer(s, "gelu", 1e-12)?;
    let mean = s.flag("use_mean_pooling", true)?;
    let pool = match pooling {
        Pooling::Pooler if mean => VitPool::MeanThenNorm,
        Pooling::Pooler | Pooling::Cls => VitPool::Cls,
        Pooling::Mean => VitPool::Mean,
        other => return Err(other.refused("image_pooling", "BEiT", "cls, mean and pooler")),
    };
    let layer_scale = s.number("layer_scale_init_value", 0.1)? > 0.0;
    Ok(Box::new(VitConfig {
        positions: s.flag("use_absolute_position_embeddings", false)?,
        relative_positions: s.flag("use_relative_position_bias", false)?,
        key_bias: false,
        final_norm: !mean,
        layer_scale,
        pool,
        ..base
    }))
}
