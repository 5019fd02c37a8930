//! ModernBERT as transformers publishes it.

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::config::{ModernBertConfig, Reach};
use crate::model::format::json::Section;
use crate::model::format::rename::How::Same;
use crate::model::format::rename::Rule;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::text::pool::TextPool;
use crate::model::text::tower::TextConfig;

type Config = Box<dyn TextConfig>;

const fn other_task(pattern: &'static str) -> Unused {
    Unused::dropped(pattern, "a head for another task, not part of the tower")
}

pub const FORMATS: &[TowerFormat<Config>] = &[TowerFormat {
    prefixes: &["", "model."],
    pooling: Pooling::Cls,
    unused: &[other_task("head.**"), other_task("decoder.**"), other_task("classifier.**")],
    ..TowerFormat::new(&["modernbert"], modernbert, &[MODERNBERT])
}];

const MODERNBERT: &[Rule] = &[
    ("embeddings.tok_embeddings.weight", "embeddings.token_embedding.weight", Same),
    ("embeddings.norm.*", "embeddings.layer_norm.*", Same),
    ("layers.*.attn_norm.*", "encoder.layers.*.layer_norm1.*", Same),
    ("layers.*.attn.Wqkv.*", "encoder.layers.*.self_attn.{q|k|v}_proj.*", Same),
    ("layers.*.attn.Wo.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("layers.*.mlp_norm.*", "encoder.layers.*.layer_norm2.*", Same),
    ("layers.*.mlp.Wi.*", "encoder.layers.*.mlp.{fc1|gate}.*", Same),
    ("layers.*.mlp.Wo.*", "encoder.layers.*.mlp.fc2.*", Same),
    ("final_norm.*", "final_layer_norm.*", Same),
];

fn modernbert(s: &Section, pooling: Pooling) -> Result<Config> {
    for bias in ["attention_bias", "mlp_bias", "norm_bias"] {
        s.refuse_unless(bias, &json!(false))?;
    }
    let positions = s.size("max_position_embeddings", 8192)?;
    Ok(Box::new(ModernBertConfig {
        width: s.size("hidden_size", 768)?,
        intermediate: s.size("intermediate_size", 1152)?,
        heads: s.size("num_attention_heads", 12)?,
        blocks: reaches(s)?,
        vocab_size: s.size("vocab_size", 50368)?,
        positions,
        context_length: positions,
        activation: s.activation("hidden_activation", "gelu")?,
        layer_norm_eps: s.number("norm_eps", 1e-5)?,
        pad_id: s.id("pad_token_id", 50283)?,
        pool: TextPool::without_pooler(pooling, "ModernBERT")?,
    }))
}

/// transformers 5 lists the kind of each layer and the frequencies of each kind; 4 says how often the whole text is
/// seen.
fn reaches(s: &Section) -> Result<Vec<Reach>> {
    let layers = s.size("num_hidden_layers", 22)?;
    let every = s.size("global_attn_every_n_layers", 3)?;
    // `local_attention` counts both sides.
    let half = s.size("local_attention", 128)? / 2;
    let theta = |kind: &str, old: &str, default: f64| -> Result<f64> {
        let parameters = s.json.pointer(&format!("/rope_parameters/{kind}")).unwrap_or(&serde_json::Value::Null);
        let rope = Section { name: "rope_parameters", json: parameters };
        rope.refuse_unless("rope_type", &json!("default"))?;
        let theta = rope.number("rope_theta", s.number(old, default)?)?;
        ensure!(theta > 1.0, "{old} is {theta}; allowed is above 1");
        Ok(theta)
    };
    let whole = Reach { window: None, theta: theta("full_attention", "global_rope_theta", 160_000.0)? };
    let local = Reach { window: Some(half), theta: theta("sliding_attention", "local_rope_theta", 10_000.0)? };
    let Some(kinds) = s.json.get("layer_types").and_then(serde_json::Value::as_array) else {
        return Ok((0..layers).map(|i| if i % every == 0 { whole } else { local }).collect());
    };
    ensure!(kinds.len() == layers, "layer_types names {} layers, num_hidden_layers is {layers}", kinds.len());
    let reach = |kind: &serde_json::Value| match kind.as_str() {
        Some("full_attention") => Ok(whole),
        Some("sliding_attention") => Ok(local),
        _ => bail!("layer_types has {kind}; known are full_attention and sliding_attention"),
    };
    kinds.iter().map(reach).collect()
}
