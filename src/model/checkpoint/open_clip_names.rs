//! What open_clip and timm call the tensors of their towers, and what timm's names of models say.

use anyhow::{Context, Result, ensure};

use super::rename::{How, Rule};

use How::{Leading, Same};

pub(super) const BLOCKS: &[Rule] = &[
    ("transformer.resblocks.*.ln_1.*", "encoder.layers.*.layer_norm1.*", Same),
    ("transformer.resblocks.*.attn.in_proj_weight", "encoder.layers.*.self_attn.{qkv}_proj.weight", Same),
    ("transformer.resblocks.*.attn.in_proj_bias", "encoder.layers.*.self_attn.{qkv}_proj.bias", Same),
    ("transformer.resblocks.*.attn.out_proj.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("transformer.resblocks.*.ln_2.*", "encoder.layers.*.layer_norm2.*", Same),
    ("transformer.resblocks.*.mlp.c_fc.*", "encoder.layers.*.mlp.fc1.*", Same),
    ("transformer.resblocks.*.mlp.c_proj.*", "encoder.layers.*.mlp.fc2.*", Same),
];

pub(super) const VIT: &[Rule] = &[
    ("class_embedding", "embeddings.class_embedding", Same),
    ("conv1.weight", "embeddings.patch_embedding.weight", Same),
    ("positional_embedding", "embeddings.position_embedding.weight", Same),
    ("ln_pre.*", "pre_layrnorm.*", Same),
    ("ln_post.*", "post_layernorm.*", Same),
];

pub(super) const TEXT: &[Rule] = &[
    ("token_embedding.weight", "embeddings.token_embedding.weight", Same),
    ("positional_embedding", "embeddings.position_embedding.weight", Same),
    ("ln_final.*", "final_layer_norm.*", Same),
];

/// A ViT of timm.
pub(super) const TIMM: &[Rule] = &[
    ("cls_token", "embeddings.class_embedding", Leading(2)),
    ("reg_token", "embeddings.register_tokens", Leading(1)),
    ("pos_embed", "embeddings.position_embedding.weight", Leading(1)),
    ("patch_embed.proj.*", "embeddings.patch_embedding.*", Same),
    ("norm_pre.*", "pre_layrnorm.*", Same),
    ("blocks.*.norm1.*", "encoder.layers.*.layer_norm1.*", Same),
    ("blocks.*.attn.qkv.*", "encoder.layers.*.self_attn.{qkv}_proj.*", Same),
    ("blocks.*.attn.proj.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("blocks.*.ls1.gamma", "encoder.layers.*.layer_scale1.lambda", Same),
    ("blocks.*.norm2.*", "encoder.layers.*.layer_norm2.*", Same),
    ("blocks.*.mlp.*.*", "encoder.layers.*.mlp.*.*", Same),
    ("blocks.*.ls2.gamma", "encoder.layers.*.layer_scale2.lambda", Same),
    ("norm.*", "post_layernorm.*", Same),
    ("fc_norm.*", "pooler.layernorm.*", Same),
    ("attn_pool.latent", "head.probe", Leading(2)),
    ("attn_pool.q.*", "head.attention.q_proj.*", Same),
    ("attn_pool.kv.*", "head.attention.{kv}_proj.*", Same),
    ("attn_pool.proj.*", "head.attention.out_proj.*", Same),
    ("attn_pool.norm.*", "head.layernorm.*", Same),
    ("attn_pool.mlp.*.*", "head.mlp.*.*", Same),
];

/// CLIP's ResNet outside its stages.
pub(super) const RESNET: &[Rule] = &[
    ("attnpool.positional_embedding", "vision_model.attention_pool.position_embedding.weight", Same),
    ("attnpool.c_proj.*", "visual_projection.*", Same),
    ("attnpool.*.*", "vision_model.attention_pool.*.*", Same),
];

/// Heads of timm's ViTs, by the word for their size.
pub(super) fn timm_heads(name: &str, width: usize) -> Result<usize> {
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
