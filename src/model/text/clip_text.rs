//! The text transformers of CLIP (causal) and SigLIP (not causal, padding attended to).

use anyhow::ensure;
use candle_core::{Result, Tensor};

use crate::model::block::{LayerNorm, Stack, StackConfig};
use crate::model::config::check_transformer;
use crate::model::params::{Builder, Depth, Init};
use crate::ops::{self, Activation, Segments, Value};

/// Which token's state stands for the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EosRule {
    /// The first highest id of the row; transformers does this where `eos_token_id` is 2, as in OpenAI's old configs.
    HighestId,
    /// The first token equal to this id.
    FirstEqual(u32),
    /// The last row, padding or not: SigLIP's, whose texts all have the context length.
    LastRow,
}

/// The shape of a CLIP's text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
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
    /// Longest text in tokens.
    pub context_length: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
    /// Whether a token sees none behind it.
    pub causal: bool,
    /// Pooling rule.
    pub eos: EosRule,
}

impl ClipTextConfig {
    /// CLIP's, with heads of 64 and a feed-forward layer of four times the width.
    pub fn clip(width: usize, layers: usize, vocab_size: usize, context_length: usize, eos: EosRule) -> Self {
        Self {
            width,
            intermediate: 4 * width,
            layers,
            heads: width / 64,
            vocab_size,
            context_length,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            causal: true,
            eos,
        }
    }

    pub(in crate::model) fn check(&self) -> anyhow::Result<()> {
        check_transformer("text_config", self.width, self.heads, self.layers, self.layer_norm_eps)?;
        if let EosRule::FirstEqual(id) = self.eos {
            ensure!(
                (id as usize) < self.vocab_size,
                "text_config: eos_token_id {id} is outside the vocabulary of {} tokens",
                self.vocab_size
            );
        }
        Ok(())
    }
}

pub(in crate::model) struct ClipText {
    token_embedding: Value,    // (vocab_size, width)
    position_embedding: Value, // (context_length, width)
    stack: Stack,
    final_norm: LayerNorm,
    config: ClipTextConfig,
}

impl ClipText {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &ClipTextConfig) -> Result<Self> {
        let embeddings = b.enter("embeddings").depth(Depth::Embeddings);
        let stack = StackConfig {
            width: c.width,
            intermediate: c.intermediate,
            layers: c.layers,
            heads: c.heads,
            activation: c.activation,
            layer_norm_eps: c.layer_norm_eps,
            causal: c.causal,
            post_norm: false,
            key_bias: true,
            layer_scale: false,
            relative: None,
        };
        let (tokens, positions) = ((c.vocab_size, c.width), (c.context_length, c.width));
        Ok(Self {
            token_embedding: embeddings.matrix("token_embedding.weight", tokens, Init::Normal(0.02))?,
            position_embedding: embeddings.vector("position_embedding.weight", positions, Init::Normal(0.02))?,
            stack: Stack::new(b, &stack)?,
            final_norm: LayerNorm::new(&b.depth(Depth::Final), "final_layer_norm", c.width, c.layer_norm_eps)?,
            config: c.clone(),
        })
    }

    /// input_ids: (batch, tokens) u32, padded on the right → (batch, width), the pooled token's state.
    ///
    /// Where attention is causal, nothing behind a text's pooled token can reach it: each text is cut there, and the texts
    /// lie one after the other without padding.
    pub fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let rows = super::rows(input_ids, self.config.context_length, self.config.vocab_size)?;
        let ends: Vec<usize> = rows.iter().map(|row| self.pooled_position(row)).collect();
        let cut = |row: &'_ [u32], end: usize| if self.config.causal { end + 1 } else { row.len() };
        let texts: Vec<&[u32]> = rows.iter().zip(&ends).map(|(row, &end)| &row[..cut(row, end)]).collect();
        let segments = Segments::of_lengths(texts.iter().map(|t| t.len()));
        let positions: Vec<u32> = texts.iter().flat_map(|t| 0..t.len() as u32).collect();
        let pooled: Vec<u32> = segments.firsts().iter().zip(&ends).map(|(first, end)| (first + end) as u32).collect();
        let x = ops::embedding(&self.token_embedding, &texts.concat())?; // (rows, width)
        let x = ops::add_embedding(&x, &self.position_embedding, &positions)?;
        // The norm works on each token alone: only the pooled ones need it.
        self.final_norm.forward(&self.stack.forward_pooled(0, x, &segments, &pooled)?)
    }

    fn pooled_position(&self, ids: &[u32]) -> usize {
        let wanted = match self.config.eos {
            EosRule::HighestId => ids.iter().copied().max().unwrap_or(0),
            EosRule::FirstEqual(id) => id,
            EosRule::LastRow => return ids.len().saturating_sub(1),
        };
        // transformers takes position 0 where there is no end of text: argmax over a row of zeros.
        ids.iter().position(|&id| id == wanted).unwrap_or(0)
    }
}
