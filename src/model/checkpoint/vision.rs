//! Image towers as transformers publishes them: a row for each `model_type` with how its config is read and how its
//! tensors are named. Ours are under `vision_model.`.

use anyhow::{Result, bail};
use serde_json::json;

use super::json::Section;
use super::rename::Rule;
use super::vision_names::{BEIT, CLIP, CONVNEXT, DINOV2, RESNET, SIGLIP_HEAD, SWIN, VIT};
use super::{Pooling, Unused};
use crate::model::config::{CLASS_TOKEN, VisionConfig};
use crate::model::vision::{ConvNextConfig, Prefix, ResNetConfig, ResNetPool, SwinConfig, VitConfig, VitPool};

/// One published form of an image tower.
pub(super) struct VisionFormat {
    pub model_types: &'static [&'static str],
    /// The section of its config that describes the tower where the file is a whole CLIP's; empty for a tower's own.
    pub section: &'static str,
    pub read: fn(&Section, Pooling) -> Result<VisionConfig>,
    pub rules: &'static [&'static [Rule]],
    /// What may stand before all names, the commonest first.
    pub prefixes: &'static [&'static str],
    /// The weight that a dense pooler has, for those that have one.
    pub pooler: Option<&'static str>,
    pub unused: &'static [Unused],
    /// Whether transformers' VisionTextDualEncoder takes it.
    pub pairs: bool,
}

const HEADS: Unused = ("classifier.**", "a classifier's head, not part of the tower", false);
const POOLER: Unused = ("pooler.**", "not used with this pooling", true);
const MASK: Unused = ("embeddings.mask_token", "used in pretraining only", true);
const POSITION_IDS: Unused = ("embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight", false);
const INDEX: Unused = ("encoder.layers.*.blocks.*.attention.self.relative_position_index", "worked out again", false);

pub(super) const VISION_FORMATS: &[VisionFormat] = &[
    VisionFormat {
        model_types: &["clip", "clip_vision_model", "chinese_clip", "chinese_clip_vision_model"],
        section: "vision_config",
        read: clip,
        rules: &[CLIP],
        prefixes: &["", "vision_model."],
        pooler: None,
        unused: &[POSITION_IDS],
        pairs: true,
    },
    VisionFormat {
        model_types: &["siglip", "siglip_vision_model"],
        section: "vision_config",
        read: siglip,
        rules: &[CLIP, SIGLIP_HEAD],
        prefixes: &["", "vision_model."],
        pooler: None,
        unused: &[POSITION_IDS, ("head.**", "not used with this pooling", true)],
        pairs: false,
    },
    VisionFormat {
        model_types: &["vit"],
        section: "",
        read: vit,
        rules: &[VIT],
        prefixes: &["", "vit."],
        pooler: Some("pooler.dense.weight"),
        unused: &[HEADS, POOLER, MASK],
        pairs: true,
    },
    VisionFormat {
        model_types: &["deit"],
        section: "",
        read: deit,
        rules: &[VIT],
        prefixes: &["", "deit."],
        pooler: Some("pooler.dense.weight"),
        unused: &[HEADS, ("cls_classifier.**", HEADS.1, false), POOLER, MASK],
        pairs: true,
    },
    VisionFormat {
        model_types: &["dinov2", "dinov2_with_registers"],
        section: "",
        read: dinov2,
        rules: &[DINOV2, VIT],
        prefixes: &["", "dinov2.", "dinov2_with_registers."],
        pooler: None,
        unused: &[HEADS, MASK],
        pairs: true,
    },
    VisionFormat {
        model_types: &["beit"],
        section: "",
        read: beit,
        rules: &[VIT, BEIT],
        prefixes: &["", "beit."],
        pooler: None,
        unused: &[
            HEADS,
            MASK,
            POOLER,
            (
                "encoder.layer.*.attention.attention.relative_position_bias.relative_position_index",
                "worked out again",
                false,
            ),
        ],
        pairs: true,
    },
    VisionFormat {
        model_types: &["convnext", "convnextv2"],
        section: "",
        read: convnext,
        rules: &[CONVNEXT],
        prefixes: &["", "convnext.", "convnextv2."],
        pooler: None,
        unused: &[HEADS, ("layernorm.**", "not used with this pooling", true)],
        pairs: false,
    },
    VisionFormat {
        model_types: &["resnet"],
        section: "",
        read: resnet,
        rules: &[RESNET],
        prefixes: &["", "resnet."],
        pooler: None,
        unused: &[HEADS],
        pairs: false,
    },
    VisionFormat {
        model_types: &["swin"],
        section: "",
        read: swin,
        rules: &[SWIN],
        prefixes: &["", "swin."],
        pooler: None,
        unused: &[HEADS, MASK, INDEX],
        pairs: true,
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
        prefix: CLASS_TOKEN,
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

fn refused(pooling: Pooling, tower: &str, allowed: &str) -> anyhow::Error {
    anyhow::anyhow!("image_pooling is {:?}; allowed for {tower} are {allowed}", pooling.word())
}

pub(super) fn clip(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    let base = transformer(s, "quick_gelu", 1e-5)?;
    let pool = match pooling {
        Pooling::Cls | Pooling::Pooler => VitPool::Cls,
        other => return Err(refused(other, "CLIP's image tower", "cls and pooler")),
    };
    let patch_size = s.side("patch_size", 32)?;
    Ok(VisionConfig::Vit(VitConfig { patch_size, patch_bias: false, pre_norm: true, pool, ..base }))
}

pub(super) fn siglip(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
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
        other => return Err(refused(other, "SigLIP's image tower", "pooler (where it has its head) and mean")),
    };
    let prefix = Prefix { class_token: false, ..CLASS_TOKEN };
    Ok(VisionConfig::Vit(VitConfig { prefix, pool, ..base }))
}

fn vit(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    s.refuse_unless("qkv_bias", &json!(true))?;
    s.refuse_unless("pooler_act", &json!("tanh"))?;
    let pool = match pooling {
        Pooling::Cls => VitPool::Cls,
        Pooling::Mean => VitPool::Mean,
        Pooling::Pooler => VitPool::Dense,
        other => return Err(refused(other, "ViT", "cls, mean and pooler")),
    };
    Ok(VisionConfig::Vit(VitConfig { pool, ..transformer(s, "gelu", 1e-12)? }))
}

fn deit(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    match vit(s, pooling)? {
        VisionConfig::Vit(c) => {
            let prefix = Prefix { distillation_token: true, ..CLASS_TOKEN };
            Ok(VisionConfig::Vit(VitConfig { prefix, ..c }))
        }
        other => Ok(other),
    }
}

fn dinov2(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
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
        other => return Err(refused(other, "DINOv2", "cls, mean and pooler")),
    };
    Ok(VisionConfig::Vit(VitConfig {
        intermediate: base.width * s.size("mlp_ratio", 4)?,
        prefix: Prefix { registers, ..CLASS_TOKEN },
        layer_scale: true,
        pool,
        ..base
    }))
}

fn beit(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    s.refuse_unless("use_shared_relative_position_bias", &json!(false))?;
    let base = transformer(s, "gelu", 1e-12)?;
    let mean = s.flag("use_mean_pooling", true)?;
    let pool = match pooling {
        Pooling::Pooler if mean => VitPool::MeanThenNorm,
        Pooling::Pooler | Pooling::Cls => VitPool::Cls,
        Pooling::Mean => VitPool::Mean,
        other => return Err(refused(other, "BEiT", "cls, mean and pooler")),
    };
    let layer_scale = s.number("layer_scale_init_value", 0.1)? > 0.0;
    Ok(VisionConfig::Vit(VitConfig {
        positions: s.flag("use_absolute_position_embeddings", false)?,
        relative_positions: s.flag("use_relative_position_bias", false)?,
        key_bias: false,
        final_norm: !mean,
        layer_scale,
        pool,
        ..base
    }))
}

/// ConvNets say nothing of the image's size; the preprocessing does.
const ANY_SIZE: usize = 224;

fn convnext(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    s.refuse_unless("num_channels", &json!(3))?;
    let v2 = s.text("model_type")? == Some("convnextv2");
    let pooler_norm = match pooling {
        Pooling::Pooler => true,
        Pooling::Mean => false,
        other => return Err(refused(other, "ConvNeXt", "mean and pooler")),
    };
    Ok(VisionConfig::ConvNext(ConvNextConfig {
        hidden: s.sizes("hidden_sizes", &[96, 192, 384, 768])?,
        depths: s.sizes("depths", &[3, 3, 9, 3])?,
        patch_size: s.side("patch_size", 4)?,
        image_size: s.side("image_size", ANY_SIZE)?,
        activation: s.activation("hidden_act", "gelu")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-12)?,
        layer_scale: !v2 && s.number("layer_scale_init_value", 1e-6)? > 0.0,
        response_norm: v2,
        pooler_norm,
    }))
}

fn resnet(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    s.refuse_unless("num_channels", &json!(3))?;
    s.refuse_unless("hidden_act", &json!("relu"))?;
    if !matches!(pooling, Pooling::Mean | Pooling::Pooler) {
        return Err(refused(pooling, "ResNet", "mean and pooler, which are the same"));
    }
    let bottleneck = match s.text("layer_type")?.unwrap_or("bottleneck") {
        "bottleneck" => true,
        "basic" => false,
        other => bail!("layer_type is {other:?}; known are bottleneck and basic"),
    };
    Ok(VisionConfig::ResNet(ResNetConfig {
        embedding: s.size("embedding_size", 64)?,
        hidden: s.sizes("hidden_sizes", &[256, 512, 1024, 2048])?,
        depths: s.sizes("depths", &[3, 4, 6, 3])?,
        bottleneck,
        downsample_in_first_stage: s.flag("downsample_in_first_stage", false)?,
        downsample_in_bottleneck: s.flag("downsample_in_bottleneck", false)?,
        clip: false,
        image_size: ANY_SIZE,
        pool: ResNetPool::Mean,
    }))
}

fn swin(s: &Section, pooling: Pooling) -> Result<VisionConfig> {
    s.refuse_unless("num_channels", &json!(3))?;
    s.refuse_unless("qkv_bias", &json!(true))?;
    s.refuse_unless("use_absolute_embeddings", &json!(false))?;
    if !matches!(pooling, Pooling::Mean | Pooling::Pooler) {
        return Err(refused(pooling, "Swin", "mean and pooler, which are the same"));
    }
    Ok(VisionConfig::Swin(SwinConfig {
        embed_dim: s.size("embed_dim", 96)?,
        depths: s.sizes("depths", &[2, 2, 6, 2])?,
        heads: s.sizes("num_heads", &[3, 6, 12, 24])?,
        window: s.size("window_size", 7)?,
        mlp_ratio: s.number("mlp_ratio", 4.0)?,
        image_size: s.side("image_size", 224)?,
        patch_size: s.side("patch_size", 4)?,
        activation: s.activation("hidden_act", "gelu")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-5)?,
    }))
}
