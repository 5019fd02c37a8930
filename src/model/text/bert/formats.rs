//! BERT and its kin as transformers publishes them.

use anyhow::{Result, ensure};
use serde_json::json;

use super::config::BertConfig;
use crate::model::format::json::Section;
use crate::model::format::rename::How::Same;
use crate::model::format::rename::Rule;
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::text::pool::TextPool;
use crate::model::text::tower::TextConfig;

type Config = Box<dyn TextConfig>;

const POOLER: Unused = Unused::carried("pooler.**", "not used with this pooling");
const POSITION_IDS: Unused = Unused::dropped("embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight");

const fn other_task(pattern: &'static str) -> Unused {
    Unused::dropped(pattern, "a head for another task, not part of the tower")
}

pub const FORMATS: &[TowerFormat<Config>] = &[
    TowerFormat {
        prefixes: &["", "bert."],
        pooler: Some("pooler.dense.weight"),
        pooling: Pooling::Cls,
        unused: &[
            POOLER,
            POSITION_IDS,
            other_task("cls.**"),
            other_task("classifier.**"),
            other_task("cls_projection_head.**"),
        ],
        pairs: true,
        ..TowerFormat::new(&["bert", "cxr-bert"], bert, &[BERT])
    },
    TowerFormat {
        section: "text_config",
        prefixes: &["", "text_model."],
        pooling: Pooling::Cls,
        unused: &[POOLER, POSITION_IDS],
        ..TowerFormat::new(&["chinese_clip", "chinese_clip_text_model"], bert, &[BERT])
    },
    TowerFormat {
        prefixes: &["", "roberta."],
        pooler: Some("pooler.dense.weight"),
        pooling: Pooling::Cls,
        unused: &[POOLER, POSITION_IDS, other_task("lm_head.**"), other_task("classifier.**")],
        pairs: true,
        ..TowerFormat::new(&["roberta", "xlm-roberta", "camembert"], roberta, &[BERT])
    },
    TowerFormat {
        prefixes: &["", "distilbert."],
        pooling: Pooling::Cls,
        unused: &[
            POSITION_IDS,
            other_task("vocab_transform.**"),
            other_task("vocab_layer_norm.**"),
            other_task("vocab_projector.**"),
            other_task("classifier.**"),
            other_task("pre_classifier.**"),
        ],
        ..TowerFormat::new(&["distilbert"], distilbert, &[DISTILBERT])
    },
];

pub const BERT: &[Rule] = &[
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

fn bert(s: &Section, pooling: Pooling) -> Result<Config> {
    Ok(Box::new(bert_config(s, pooling)?))
}

/// A BERT's numbers.
pub fn bert_config(s: &Section, pooling: Pooling) -> Result<BertConfig> {
    if let Some(kind) = s.json.get("position_embedding_type").filter(|v| !v.is_null()) {
        ensure!(kind == &json!("absolute"), "position_embedding_type is {kind}; this version takes \"absolute\"");
    }
    let positions = s.size("max_position_embeddings", 512)?;
    Ok(BertConfig {
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
        pool: TextPool::of(pooling),
    })
}

fn roberta(s: &Section, pooling: Pooling) -> Result<Config> {
    let base = bert_config(s, pooling)?;
    let pad_id = s.id("pad_token_id", 1)?;
    // The table's rows up to the padding token's are never a token's position.
    let position_offset = pad_id as usize + 1;
    Ok(Box::new(BertConfig {
        position_offset,
        context_length: base.positions.saturating_sub(position_offset),
        vocab_size: s.size("vocab_size", 50265)?,
        pad_id,
        ..base
    }))
}

fn distilbert(s: &Section, pooling: Pooling) -> Result<Config> {
    let pool = TextPool::without_pooler(pooling, "DistilBERT")?;
    s.refuse_unless("sinusoidal_pos_embds", &json!(false))?;
    let positions = s.size("max_position_embeddings", 512)?;
    Ok(Box::new(BertConfig {
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
        pool,
    }))
}
