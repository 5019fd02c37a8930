//! What open_clip and timm call the tensors of their towers.

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
