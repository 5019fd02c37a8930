//! What transformers calls the tensors of its vision transformers.

use crate::model::format::rename::How::{Leading, PatchRows, Same};
use crate::model::format::rename::Rule;

/// CLIP's own names are ours.
pub const CLIP: &[Rule] = &[
    ("embeddings.class_embedding", "embeddings.class_embedding", Same),
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("pre_layrnorm.*", "pre_layrnorm.*", Same),
    ("encoder.layers.*.*.*", "encoder.layers.*.*.*", Same),
    ("encoder.layers.*.*.*.*", "encoder.layers.*.*.*.*", Same),
    ("post_layernorm.*", "post_layernorm.*", Same),
];

pub const SIGLIP_HEAD: &[Rule] = &[
    ("head.probe", "head.probe", Leading(2)),
    ("head.attention.in_proj_weight", "head.attention.{q|k|v}_proj.weight", Same),
    ("head.attention.in_proj_bias", "head.attention.{q|k|v}_proj.bias", Same),
    ("head.attention.out_proj.*", "head.attention.out_proj.*", Same),
    ("head.layernorm.*", "head.layernorm.*", Same),
    ("head.mlp.*.*", "head.mlp.*.*", Same),
];

/// SigLIP 2's patches are rows; put before [`CLIP`].
pub const SIGLIP2_PATCHES: &[Rule] =
    &[("embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight", PatchRows)];

pub const VIT: &[Rule] = &[
    ("embeddings.cls_token", "embeddings.class_embedding", Leading(2)),
    ("embeddings.distillation_token", "embeddings.distillation_token", Leading(2)),
    ("embeddings.position_embeddings", "embeddings.position_embedding.weight", Leading(1)),
    ("embeddings.patch_embeddings.projection.*", "embeddings.patch_embedding.*", Same),
    ("encoder.layer.*.attention.attention.query.*", "encoder.layers.*.self_attn.q_proj.*", Same),
    ("encoder.layer.*.attention.attention.key.*", "encoder.layers.*.self_attn.k_proj.*", Same),
    ("encoder.layer.*.attention.attention.value.*", "encoder.layers.*.self_attn.v_proj.*", Same),
    ("encoder.layer.*.attention.output.dense.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("layernorm.*", "post_layernorm.*", Same),
    ("pooler.dense.*", "pooler.dense.*", Same),
    ("pooler.layernorm.*", "pooler.layernorm.*", Same),
    ("encoder.layer.*.layernorm_before.*", "encoder.layers.*.layer_norm1.*", Same),
    ("encoder.layer.*.layernorm_after.*", "encoder.layers.*.layer_norm2.*", Same),
    ("encoder.layer.*.intermediate.dense.*", "encoder.layers.*.mlp.fc1.*", Same),
    ("encoder.layer.*.output.dense.*", "encoder.layers.*.mlp.fc2.*", Same),
];

/// Where DINOv2 differs; put before [`VIT`].
pub const DINOV2: &[Rule] = &[
    ("embeddings.register_tokens", "embeddings.register_tokens", Leading(1)),
    ("encoder.layer.*.norm1.*", "encoder.layers.*.layer_norm1.*", Same),
    ("encoder.layer.*.norm2.*", "encoder.layers.*.layer_norm2.*", Same),
    ("encoder.layer.*.layer_scale1.lambda1", "encoder.layers.*.layer_scale1.lambda", Same),
    ("encoder.layer.*.layer_scale2.lambda1", "encoder.layers.*.layer_scale2.lambda", Same),
    ("encoder.layer.*.mlp.*.*", "encoder.layers.*.mlp.*.*", Same),
];

pub const BEIT: &[Rule] = &[
    ("encoder.layer.*.lambda_1", "encoder.layers.*.layer_scale1.lambda", Same),
    ("encoder.layer.*.lambda_2", "encoder.layers.*.layer_scale2.lambda", Same),
    (
        "encoder.layer.*.attention.attention.relative_position_bias.relative_position_bias_table",
        "encoder.layers.*.self_attn.relative_position_bias.table",
        Same,
    ),
];
