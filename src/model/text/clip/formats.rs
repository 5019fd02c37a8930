//! CLIP's text transformer as transformers publishes it, and SigLIP's.

use anyhow::Result;

use super::config::{ClipTextConfig, EosRule};
use crate::model::format::json::Section;
use crate::model::format::rename::How::Same;
use crate::model::format::rename::Rule;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::text::tower::TextConfig;

type Config = Box<dyn TextConfig>;

pub const FORMATS: &[TowerFormat<Config>] = &[
    TowerFormat {
        section: "text_config",
        prefixes: &["", "text_model."],
        pooling: Pooling::Eos,
        unused: &[Unused::dropped("embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight")],
        ..TowerFormat::new(&["clip", "clip_text_model"], clip, &[CLIP])
    },
    TowerFormat { whole_only: true, ..TowerFormat::new(&["siglip_text_model", "siglip2_text_model"], siglip, &[CLIP]) },
];

/// CLIP's own names are ours.
const CLIP: &[Rule] = &[
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("encoder.layers.*.*.*", "encoder.layers.*.*.*", Same),
    ("encoder.layers.*.*.*.*", "encoder.layers.*.*.*.*", Same),
    ("final_layer_norm.*", "final_layer_norm.*", Same),
];

fn clip(s: &Section, pooling: Pooling) -> Result<Config> {
    if !matches!(pooling, Pooling::Eos | Pooling::Pooler) {
        return Err(pooling.refused("text_pooling", "CLIP's text tower", "eos and pooler, which are the same"));
    }
    Ok(Box::new(ClipTextConfig {
        width: s.size("hidden_size", 512)?,
        intermediate: s.size("intermediate_size", 2048)?,
        layers: s.size("num_hidden_layers", 12)?,
        heads: s.size("num_attention_heads", 8)?,
        vocab_size: s.size("vocab_size", 49408)?,
        context_length: s.size("max_position_embeddings", 77)?,
        activation: s.activation("hidden_act", "quick_gelu")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-5)?,
        causal: true,
        eos: match s.id("eos_token_id", 49407)? {
            2 => EosRule::HighestId,
            id => EosRule::FirstEqual(id),
        },
    }))
}

/// SigLIP's and SigLIP 2's, of one pooling.
fn siglip(s: &Section, _pooling: Pooling) -> Result<Config> {
    Ok(Box::new(ClipTextConfig {
        width: s.size("hidden_size", 768)?,
        intermediate: s.size("intermediate_size", 3072)?,
        layers: s.size("num_hidden_layers", 12)?,
        heads: s.size("num_attention_heads", 12)?,
        vocab_size: s.size("vocab_size", 32000)?,
        context_length: s.size("max_position_embeddings", 64)?,
        activation: s.activation("hidden_act", "gelu_pytorch_tanh")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-6)?,
        causal: false,
        eos: EosRule::LastRow,
    }))
}
