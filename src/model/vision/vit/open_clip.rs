//! Vision transformers within open_clip's models: CLIP's own, and timm's.

use anyhow::{Context, Result, bail, ensure};

use super::config::{Prefix, VitConfig, VitPool};
use crate::model::format::json::Section;
use crate::model::format::open_clip::{BLOCKS, OpenClipReader, OpenClipTower, norm_eps};
use crate::model::format::rename::How::{Leading, Same, Transposed};
use crate::model::format::rename::Rule;
use crate::model::layers::projection::Projection;
use crate::model::vision::tower::VisionConfig;
use crate::ops::Activation;

type Config = Box<dyn VisionConfig>;

pub const OPEN_CLIP: OpenClipTower<Config> = OpenClipTower { claims, read };

const VIT: &[Rule] = &[
    ("class_embedding", "embeddings.class_embedding", Same),
    ("conv1.weight", "embeddings.patch_embedding.weight", Same),
    ("positional_embedding", "embeddings.position_embedding.weight", Same),
    ("ln_pre.*", "pre_layrnorm.*", Same),
    ("ln_post.*", "post_layernorm.*", Same),
];

/// A ViT of timm.
const TIMM: &[Rule] = &[
    ("cls_token", "embeddings.class_embedding", Leading(2)),
    ("reg_token", "embeddings.register_tokens", Leading(1)),
    ("pos_embed", "embeddings.position_embedding.weight", Leading(1)),
    ("patch_embed.proj.*", "embeddings.patch_embedding.*", Same),
    ("norm_pre.*", "pre_layrnorm.*", Same),
    ("blocks.*.norm1.*", "encoder.layers.*.layer_norm1.*", Same),
    ("blocks.*.attn.qkv.*", "encoder.layers.*.self_attn.{q|k|v}_proj.*", Same),
    ("blocks.*.attn.proj.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("blocks.*.ls1.gamma", "encoder.layers.*.layer_scale1.lambda", Same),
    ("blocks.*.norm2.*", "encoder.layers.*.layer_norm2.*", Same),
    ("blocks.*.mlp.*.*", "encoder.layers.*.mlp.*.*", Same),
    ("blocks.*.ls2.gamma", "encoder.layers.*.layer_scale2.lambda", Same),
    ("norm.*", "post_layernorm.*", Same),
    ("fc_norm.*", "pooler.layernorm.*", Same),
    ("attn_pool.latent", "head.probe", Leading(2)),
    ("attn_pool.q.*", "head.attention.q_proj.*", Same),
    ("attn_pool.kv.*", "head.attention.{k|v}_proj.*", Same),
    ("attn_pool.proj.*", "head.attention.out_proj.*", Same),
    ("attn_pool.norm.*", "head.layernorm.*", Same),
    ("attn_pool.mlp.*.*", "head.mlp.*.*", Same),
];

fn claims(s: &Section) -> Result<bool> {
    Ok(match s.text("timm_model_name")? {
        Some(name) => name.starts_with("vit_"),
        None => !s.json.get("layers").is_some_and(serde_json::Value::is_array),
    })
}

fn read(reader: &mut OpenClipReader, s: &Section) -> Result<(Config, Projection)> {
    if let Some(name) = s.text("timm_model_name")? {
        return timm(reader, s, name);
    }
    let width = s.size("width", 768)?;
    let pool = match s.text("pool_type")?.unwrap_or("tok") {
        "tok" => VitPool::Cls,
        "avg" => VitPool::Mean,
        other => bail!("vision_cfg.pool_type is {other:?}; known are tok and avg"),
    };
    for rules in [VIT, BLOCKS] {
        reader.renames.add(rules, "visual.", "vision_model.");
    }
    reader.renames.push("visual.proj".into(), "visual_projection.weight".into(), Transposed);
    let vit = VitConfig {
        intermediate: (width as f64 * s.ratio("mlp_ratio", 4.0)?) as usize,
        heads: width / s.size("head_width", 64)?.min(width),
        activation: reader.activation(),
        layer_norm_eps: norm_eps(s)?,
        pre_norm: !s.flag("no_ln_pre", false)?,
        pool,
        ..VitConfig::clip(width, s.size("layers", 12)?, s.side("image_size", 224)?, s.side("patch_size", 16)?)
    };
    Ok((Box::new(vit), Projection::Linear { bias: false }))
}

/// timm's configs are in its code; the numbers are read off the weights, and heads go by the name.
fn timm(reader: &mut OpenClipReader, s: &Section, name: &str) -> Result<(Config, Projection)> {
    const TRUNK: &str = "visual.trunk.";
    let at = |inner: &str| format!("{TRUNK}{inner}");
    let patch = at("patch_embed.proj.weight");
    let (width, patch_size) = (reader.side(&patch, 0)?, reader.side(&patch, 2)?);
    let image_size = s.side("image_size", 224)?;
    let grid = image_size / patch_size.max(1);
    let class_token = reader.has(&at("cls_token"));
    let registers = if reader.has(&at("reg_token")) { reader.side(&at("reg_token"), 1)? } else { 0 };
    let positions = reader.side(&at("pos_embed"), 1)?;
    let prefix_positions = class_token && positions == grid * grid + 1;
    let pool = match s.text("timm_pool")?.unwrap_or("avg") {
        "map" => VitPool::Attention,
        "avg" if reader.has(&at("fc_norm.weight")) => VitPool::MeanThenNorm,
        "avg" => VitPool::Mean,
        // Empty: the model's own.
        "token" | "" if reader.has(&at("attn_pool.latent")) => VitPool::Attention,
        "token" | "" if class_token => VitPool::Cls,
        other => bail!("vision_cfg.timm_pool is {other:?}, which does not fit {name}"),
    };
    reader.renames.add(TIMM, TRUNK, "vision_model.");
    let vit = VitConfig {
        width,
        intermediate: reader.side(&at("blocks.0.mlp.fc1.weight"), 0)?,
        layers: reader.count(&at("blocks.")),
        heads: timm_heads(name, width)?,
        image_size,
        patch_size,
        activation: if name.contains("quickgelu") { Activation::QuickGelu } else { Activation::Gelu },
        layer_norm_eps: if name.contains("clip") && !name.contains("siglip") { 1e-5 } else { 1e-6 },
        prefix: Prefix { class_token, registers, ..Prefix::CLASS_TOKEN },
        positions: true,
        prefix_positions,
        patch_bias: reader.has(&at("patch_embed.proj.bias")),
        pre_norm: reader.has(&at("norm_pre.weight")),
        final_norm: reader.has(&at("norm.weight")),
        layer_scale: reader.has(&at("blocks.0.ls1.gamma")),
        key_bias: true,
        relative_positions: false,
        pool,
    };
    ensure!(
        registers == 0 || !prefix_positions,
        "vision_cfg: {name} has positions for its registers, which is not supported"
    );
    let bias = s.flag("timm_proj_bias", false)?;
    let projection = match s.text("timm_proj")?.unwrap_or("linear") {
        "linear" => {
            reader.renames.push("visual.head.proj.*".into(), "visual_projection.*".into(), Same);
            Projection::Linear { bias }
        }
        "mlp" => {
            reader.renames.push("visual.head.mlp.fc1.*".into(), "visual_projection.0.*".into(), Same);
            reader.renames.push("visual.head.mlp.fc2.*".into(), "visual_projection.2.*".into(), Same);
            Projection::Mlp { hidden: 2 * reader.embed_dim, biases: (true, bias) }
        }
        "none" => Projection::None,
        other => bail!("vision_cfg.timm_proj is {other:?}; known are linear, mlp and none"),
    };
    Ok((Box::new(vit), projection))
}

/// Heads of timm's ViTs, by the word for their size.
fn timm_heads(name: &str, width: usize) -> Result<usize> {
    const HEADS: &[(&str, usize)] = &[
        ("vit_tiny_", 3),
        ("vit_small_", 6),
        ("vit_medium_", 8),
        ("vit_base_", 12),
        ("vit_large_", 16),
        ("vit_huge_", 16),
        ("vit_so400m_", 16),
        ("vit_giant_", 16),
        ("vit_gigantic_", 16),
    ];
    let found = HEADS.iter().find(|(start, _)| name.starts_with(start)).map(|(_, heads)| *heads);
    let heads = found.with_context(|| {
        let known: Vec<&str> = HEADS.iter().map(|(start, _)| *start).collect();
        format!("vision_cfg.timm_model_name is {name:?}; known are names that begin with {}", known.join(", "))
    })?;
    ensure!(width.is_multiple_of(heads), "{name} has {heads} heads, which do not divide a width of {width}");
    Ok(heads)
}
