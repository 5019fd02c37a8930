//! What transformers calls the tensors of its image towers.

use super::rename::{How, Rule};

use How::{Leading, PatchRows, Same};

/// CLIP's own names are ours.
pub(super) const CLIP: &[Rule] = &[
    ("embeddings.class_embedding", "embeddings.class_embedding", Same),
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("pre_layrnorm.*", "pre_layrnorm.*", Same),
    ("encoder.layers.*.*.*", "encoder.layers.*.*.*", Same),
    ("encoder.layers.*.*.*.*", "encoder.layers.*.*.*.*", Same),
    ("post_layernorm.*", "post_layernorm.*", Same),
];

pub(super) const SIGLIP_HEAD: &[Rule] = &[
    ("head.probe", "head.probe", Leading(2)),
    ("head.attention.in_proj_weight", "head.attention.{qkv}_proj.weight", Same),
    ("head.attention.in_proj_bias", "head.attention.{qkv}_proj.bias", Same),
    ("head.attention.out_proj.*", "head.attention.out_proj.*", Same),
    ("head.layernorm.*", "head.layernorm.*", Same),
    ("head.mlp.*.*", "head.mlp.*.*", Same),
];

/// SigLIP 2's patches are rows; put before [`CLIP`].
pub(super) const SIGLIP2_PATCHES: &[Rule] =
    &[("embeddings.patch_embedding.weight", "embeddings.patch_embedding.weight", PatchRows)];

pub(super) const VIT: &[Rule] = &[
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
pub(super) const DINOV2: &[Rule] = &[
    ("embeddings.register_tokens", "embeddings.register_tokens", Leading(1)),
    ("encoder.layer.*.norm1.*", "encoder.layers.*.layer_norm1.*", Same),
    ("encoder.layer.*.norm2.*", "encoder.layers.*.layer_norm2.*", Same),
    ("encoder.layer.*.layer_scale1.lambda1", "encoder.layers.*.layer_scale1.lambda", Same),
    ("encoder.layer.*.layer_scale2.lambda1", "encoder.layers.*.layer_scale2.lambda", Same),
    ("encoder.layer.*.mlp.*.*", "encoder.layers.*.mlp.*.*", Same),
];

pub(super) const BEIT: &[Rule] = &[
    ("encoder.layer.*.lambda_1", "encoder.layers.*.layer_scale1.lambda", Same),
    ("encoder.layer.*.lambda_2", "encoder.layers.*.layer_scale2.lambda", Same),
    (
        "encoder.layer.*.attention.attention.relative_position_bias.relative_position_bias_table",
        "encoder.layers.*.self_attn.relative_position_bias.table",
        Same,
    ),
];

pub(super) const CONVNEXT: &[Rule] = &[
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("encoder.stages.*.downsampling_layer.*.*", "encoder.stages.*.downsampling_layer.*.*", Same),
    ("encoder.stages.*.layers.*.layer_scale_parameter", "encoder.stages.*.layers.*.layer_scale_parameter", Same),
    ("encoder.stages.*.layers.*.grn.*", "encoder.stages.*.layers.*.grn.*", Leading(3)),
    ("encoder.stages.*.layers.*.*.*", "encoder.stages.*.layers.*.*.*", Same),
    ("layernorm.*", "layernorm.*", Same),
];

pub(super) const RESNET: &[Rule] = &[
    ("embedder.embedder.*.*", "embedder.embedder.*.*", Same),
    ("encoder.stages.*.layers.*.layer.*.*.*", "encoder.stages.*.layers.*.layer.*.*.*", Same),
    ("encoder.stages.*.layers.*.shortcut.*.*", "encoder.stages.*.layers.*.shortcut.*.*", Same),
];

pub(super) const SWIN: &[Rule] = &[
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
