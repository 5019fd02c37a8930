//! BERT and its kin: ClinicalBERT, PubMedBERT, MiniLM, RoBERTa, XLM-R, DistilBERT. They differ in where positions start
//! and whether there are token types.

use anyhow::ensure;
use candle_core::{Result, Tensor};

use crate::model::block::{LayerNorm, Linear, Stack, StackConfig};
use crate::model::config::check_transformer;
use crate::model::params::{Builder, Depth, Init};
use crate::ops::{self, Activation, Segments, Value};

/// What stands for the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPool {
    /// The first token.
    Cls,
    /// That through a dense layer and tanh.
    Dense,
    /// The mean of all tokens.
    Mean,
    /// The last token.
    Eos,
}

/// The shape of a BERT.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Width of a token's state.
    pub width: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Tokens known.
    pub vocab_size: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// The row of the first token (RoBERTa's table begins with padding).
    pub position_offset: usize,
    /// Token types; 0 where there are none. Reports are of type 0.
    pub token_types: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
    /// What texts are padded with.
    pub pad_id: u32,
    /// Pooling.
    pub pool: TextPool,
}

impl BertConfig {
    pub(in crate::model) fn check(&self) -> anyhow::Result<()> {
        check_transformer("text_config", self.width, self.heads, self.layers, self.layer_norm_eps)?;
        ensure!(
            self.context_length + self.position_offset <= self.positions,
            "texts of {} tokens: the model has positions for {}; positions of this tower cannot be made longer",
            self.context_length,
            self.positions.saturating_sub(self.position_offset)
        );
        Ok(())
    }
}

pub(in crate::model) struct Bert {
    token_embedding: Value,              // (vocab_size, width)
    position_embedding: Value,           // (positions, width)
    token_type_embedding: Option<Value>, // (token_types, width)
    norm: LayerNorm,
    stack: Stack,
    pooler: Option<Linear>,
    config: BertConfig,
}

impl Bert {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &BertConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let stack = StackConfig {
            width: c.width,
            intermediate: c.intermediate,
            layers: c.layers,
            heads: c.heads,
            activation: c.activation,
            layer_norm_eps: c.layer_norm_eps,
            causal: false,
            post_norm: true,
            key_bias: true,
            layer_scale: false,
            relative: None,
        };
        let table = |name: &str, rows: usize| e.vector(name, (rows, c.width), Init::Normal(0.02));
        let last = b.enter("pooler").depth(Depth::Final);
        Ok(Self {
            token_embedding: e.matrix("token_embedding.weight", (c.vocab_size, c.width), Init::Normal(0.02))?,
            position_embedding: table("position_embedding.weight", c.positions)?,
            token_type_embedding: (c.token_types > 0)
                .then(|| table("token_type_embedding.weight", c.token_types))
                .transpose()?,
            norm: LayerNorm::new(&e, "layer_norm", c.width, c.layer_norm_eps)?,
            stack: Stack::new(b, &stack)?,
            pooler: (c.pool == TextPool::Dense)
                .then(|| Linear::new(&last, "dense", c.width, c.width, 0.02))
                .transpose()?,
            config: c.clone(),
        })
    }

    /// input_ids: (batch, tokens) u32, padded on the right → (batch, width). Padding is left out: texts lie one after the
    /// other.
    pub fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let c = &self.config;
        let rows = super::rows(input_ids, c.context_length, c.vocab_size)?;
        let length = |row: &[u32]| row.iter().rposition(|&id| id != c.pad_id).map_or(1, |last| last + 1);
        let texts: Vec<&[u32]> = rows.iter().map(|row| &row[..length(row).min(row.len())]).collect();
        let segments = Segments::of_lengths(texts.iter().map(|t| t.len()));
        let first = c.position_offset as u32;
        let positions: Vec<u32> = texts.iter().flat_map(|t| first..first + t.len() as u32).collect();
        let mut x = ops::embedding(&self.token_embedding, &texts.concat())?; // (rows, width)
        x = ops::add_embedding(&x, &self.position_embedding, &positions)?;
        if let Some(types) = &self.token_type_embedding {
            x = ops::add_embedding(&x, types, &vec![0; positions.len()])?;
        }
        let x = self.norm.forward(&x)?;
        let pooled = |place: fn((usize, usize)) -> usize| -> Vec<u32> {
            segments.spans().map(|span| place(span) as u32).collect()
        };
        match c.pool {
            TextPool::Mean => ops::mean_rows(&self.stack.forward_all(0, x, &segments)?, &segments),
            TextPool::Eos => self.stack.forward_pooled(0, x, &segments, &pooled(|(first, length)| first + length - 1)),
            TextPool::Cls | TextPool::Dense => {
                let state = self.stack.forward_pooled(0, x, &segments, &pooled(|(first, _)| first))?;
                match &self.pooler {
                    Some(pooler) => Activation::Tanh.apply(&pooler.forward(&state)?),
                    None => Ok(state),
                }
            }
        }
    }
}
