//! Text towers as transformers publishes them: a row for each `model_type` with how its config is read and how its
//! tensors are named. Ours are under `text_model.`.

use anyhow::{Result, ensure};
use serde_json::json;

use super::json::Section;
use super::rename::{How, Rule};
use super::{Pooling, Unused};
use crate::model::config::TextConfig;
use crate::model::text::{BertConfig, ClipTextConfig, EosRule, TextPool};

/// One published form of a text tower.
pub(super) struct TextFormat {
    pub model_types: &'static [&'static str],
    /// As in `VisionFormat`, here and below.
    pub section: &'static str,
    pub read: fn(&Section, Pooling) -> Result<TextConfig>,
    pub rules: &'static [Rule],
    pub prefixes: &'static [&'static str],
    pub pooler: Option<&'static str>,
    pub unused: &'static [Unused],
    pub pairs: bool,
}

const POOLER: Unused = ("pooler.**", "not used with this pooling", true);
const POSITION_IDS: Unused = ("embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight", false);
const LM_HEAD: &str = "a head for another task, not part of the tower";

pub(super) const TEXT_FORMATS: &[TextFormat] = &[
    TextFormat {
        model_types: &["clip", "clip_text_model"],
        section: "text_config",
        read: clip,
        rules: CLIP,
        prefixes: &["", "text_model."],
        pooler: None,
        unused: &[POSITION_IDS],
        pairs: false,
    },
    TextFormat {
        model_types: &["bert", "cxr-bert"],
        section: "",
        read: bert,
        rules: BERT,
        prefixes: &["", "bert."],
        pooler: Some("pooler.dense.weight"),
        unused: &[
            POOLER,
            POSITION_IDS,
            ("cls.**", LM_HEAD, false),
            ("classifier.**", LM_HEAD, false),
            ("cls_projection_head.**", LM_HEAD, false),
        ],
        pairs: true,
    },
    TextFormat {
        model_types: &["chinese_clip", "chinese_clip_text_model"],
        section: "text_config",
        read: bert,
        rules: BERT,
        prefixes: &["", "text_model."],
        pooler: None,
        unused: &[POOLER, POSITION_IDS],
        pairs: false,
    },
    TextFormat {
        model_types: &["roberta", "xlm-roberta", "camembert"],
        section: "",
        read: roberta,
        rules: BERT,
        prefixes: &["", "roberta."],
        pooler: Some("pooler.dense.weight"),
        unused: &[POOLER, POSITION_IDS, ("lm_head.**", LM_HEAD, false), ("classifier.**", LM_HEAD, false)],
        pairs: true,
    },
    TextFormat {
        model_types: &["distilbert"],
        section: "",
        read: distilbert,
        rules: DISTILBERT,
        prefixes: &["", "distilbert."],
        pooler: None,
        unused: &[
            POSITION_IDS,
            ("vocab_transform.**", LM_HEAD, false),
            ("vocab_layer_norm.**", LM_HEAD, false),
            ("vocab_projector.**", LM_HEAD, false),
            ("classifier.**", LM_HEAD, false),
            ("pre_classifier.**", LM_HEAD, false),
        ],
        pairs: false,
    },
];

use How::Same;

/// CLIP's own names are ours.
pub(super) const CLIP: &[Rule] = &[
    ("embeddings.*.*", "embeddings.*.*", Same),
    ("encoder.layers.*.*.*", "encoder.layers.*.*.*", Same),
    ("encoder.layers.*.*.*.*", "encoder.layers.*.*.*.*", Same),
    ("final_layer_norm.*", "final_layer_norm.*", Same),
];

pub(super) const BERT: &[Rule] = &[
    ("embeddings.word_embeddings.weight", "embeddings.token_embedding.weight", Same),
    ("embeddings.position_embeddings.weight", "embeddings.position_embedding.weight", Same),
    ("embeddings.token_type_embeddings.weight", "embeddings.token_type_embedding.weight", Same),
    ("embeddings.LayerNorm.*", "embeddings.layer_norm.*", Same),
    ("encoder.layer.*.attention.self.query.*", "encoder.layers.*.self_attn.q_proj.*", Same),
    ("encoder.layer.*.attention.self.key.*", "encoder.layers.*.self_attn.k_proj.*", Same),
    ("encoder.layer.*.attention.self.value.*", "encoder.layers.*.self_attn.v_proj.*", Same),
    ("encoder.layer.*.attention.output.dense.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("encoder.layer.*.attention.output.LayerNorm.*", "encoder.layers.*.layer_norm1.*", Same),
    ("encoder.layer.*.intermediate.dense.*", "encoder.layers.*.mlp.fc1.*", Same),
    ("encoder.layer.*.output.dense.*", "encoder.layers.*.mlp.fc2.*", Same),
    ("encoder.layer.*.output.LayerNorm.*", "encoder.layers.*.layer_norm2.*", Same),
    ("pooler.dense.*", "pooler.dense.*", Same),
];

const DISTILBERT: &[Rule] = &[
    ("embeddings.word_embeddings.weight", "embeddings.token_embedding.weight", Same),
    ("embeddings.position_embeddings.weight", "embeddings.position_embedding.weight", Same),
    ("embeddings.LayerNorm.*", "embeddings.layer_norm.*", Same),
    ("transformer.layer.*.attention.q_lin.*", "encoder.layers.*.self_attn.q_proj.*", Same),
    ("transformer.layer.*.attention.k_lin.*", "encoder.layers.*.self_attn.k_proj.*", Same),
    ("transformer.layer.*.attention.v_lin.*", "encoder.layers.*.self_attn.v_proj.*", Same),
    ("transformer.layer.*.attention.out_lin.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("transformer.layer.*.sa_layer_norm.*", "encoder.layers.*.layer_norm1.*", Same),
    ("transformer.layer.*.ffn.lin1.*", "encoder.layers.*.mlp.fc1.*", Same),
    ("transformer.layer.*.ffn.lin2.*", "encoder.layers.*.mlp.fc2.*", Same),
    ("transformer.layer.*.output_layer_norm.*", "encoder.layers.*.layer_norm2.*", Same),
];

pub(super) fn clip(s: &Section, pooling: Pooling) -> Result<TextConfig> {
    ensure!(
        matches!(pooling, Pooling::Eos | Pooling::Pooler),
        "text_pooling is {:?}; allowed for CLIP's text tower are eos and pooler, which are the same",
        pooling.word()
    );
    Ok(TextConfig::Clip(ClipTextConfig {
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

/// SigLIP's and SigLIP 2's.
pub(super) fn siglip(s: &Section) -> Result<TextConfig> {
    Ok(TextConfig::Clip(ClipTextConfig {
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

fn pool(pooling: Pooling) -> TextPool {
    match pooling {
        Pooling::Cls => TextPool::Cls,
        Pooling::Mean => TextPool::Mean,
        Pooling::Eos => TextPool::Eos,
        Pooling::Pooler => TextPool::Dense,
    }
}

pub(super) fn bert(s: &Section, pooling: Pooling) -> Result<TextConfig> {
    if let Some(kind) = s.json.get("position_embedding_type").filter(|v| !v.is_null()) {
        ensure!(kind == &json!("absolute"), "position_embedding_type is {kind}; this version takes \"absolute\"");
    }
    let positions = s.size("max_position_embeddings", 512)?;
    Ok(TextConfig::Bert(BertConfig {
        width: s.size("hidden_size", 768)?,
        intermediate: s.size("intermediate_size", 3072)?,
        layers: s.size("num_hidden_layers", 12)?,
        heads: s.size("num_attention_heads", 12)?,
        vocab_size: s.size("vocab_size", 30522)?,
        positions,
        position_offset: 0,
        token_types: s.size("type_vocab_size", 2)?,
        context_length: positions,
        activation: s.activation("hidden_act", "gelu")?,
        layer_norm_eps: s.number("layer_norm_eps", 1e-12)?,
        pad_id: s.id("pad_token_id", 0)?,
        pool: pool(pooling),
    }))
}

fn roberta(s: &Section, pooling: Pooling) -> Result<TextConfig> {
    let TextConfig::Bert(base) = bert(s, pooling)? else { anyhow::bail!("not a BERT") };
    let pad_id = s.id("pad_token_id", 1)?;
    // The table's rows up to the padding token's are never a token's position.
    let position_offset = pad_id as usize + 1;
    Ok(TextConfig::Bert(BertConfig {
        position_offset,
        context_length: base.positions.saturating_sub(position_offset),
        vocab_size: s.size("vocab_size", 50265)?,
        pad_id,
        ..base
    }))
}

fn distilbert(s: &Section, pooling: Pooling) -> Result<TextConfig> {
    ensure!(pooling != Pooling::Pooler, "text_pooling is pooler; DistilBERT has none: allowed are cls, mean and eos");
    s.refuse_unless("sinusoidal_pos_embds", &json!(false))?;
    let positions = s.size("max_position_embeddings", 512)?;
    Ok(TextConfig::Bert(BertConfig {
        width: s.size("dim", 768)?,
        intermediate: s.size("hidden_dim", 3072)?,
        layers: s.size("n_layers", 6)?,
        heads: s.size("n_heads", 12)?,
        vocab_size: s.size("vocab_size", 30522)?,
        positions,
        position_offset: 0,
        token_types: 0,
        context_length: positions,
        activation: s.activation("activation", "gelu")?,
        layer_norm_eps: 1e-12,
        pad_id: s.id("pad_token_id", 0)?,
        pool: pool(pooling),
    }))
}
