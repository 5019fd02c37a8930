//! CLIP's causal text transformer.

use candle_core::{Result, Tensor, bail};

use crate::model::block::{LayerNorm, Stack, StackConfig};
use crate::model::config::{EosRule, TextConfig};
use crate::model::params::{Builder, Depth, Init, Part};
use crate::ops::{self, Segments, Value};

pub(in crate::model) struct ClipText {
    token_embedding: Value,    // (vocab_size, width)
    position_embedding: Value, // (context_length, width)
    stack: Stack,
    final_norm: LayerNorm,
    config: TextConfig,
}

impl ClipText {
    pub fn new(b: &Builder, c: &TextConfig) -> Result<Self> {
        let b = b.enter("text_model").part(Part::Text);
        let embeddings = b.enter("embeddings").depth(Depth::Embeddings);
        let stack = StackConfig {
            width: c.width,
            intermediate: c.intermediate,
            layers: c.layers,
            heads: c.heads,
            activation: c.activation,
            layer_norm_eps: c.layer_norm_eps,
            causal: true,
        };
        Ok(Self {
            token_embedding: embeddings.matrix(
                "token_embedding.weight",
                (c.vocab_size, c.width),
                Init::Normal(0.02),
            )?,
            position_embedding: embeddings.vector(
                "position_embedding.weight",
                (c.context_length, c.width),
                Init::Normal(0.02),
            )?,
            stack: Stack::new(&b, &stack)?,
            final_norm: LayerNorm::new(&b.depth(Depth::Final), "final_layer_norm", c.width, c.layer_norm_eps)?,
            config: c.clone(),
        })
    }

    /// input_ids: (batch, tokens) u32, padded on the right → (batch, width), the end-of-text token's state.
    ///
    /// Attention is causal, so nothing behind a text's pooled token can reach it: each text is cut there, and the texts
    /// lie one after the other without padding.
    pub fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let (_, tokens) = input_ids.dims2()?;
        if tokens > self.config.context_length {
            bail!("texts have {tokens} tokens, the model takes {}", self.config.context_length);
        }
        let rows: Vec<Vec<u32>> = input_ids.to_vec2()?;
        if let Some(id) = rows.iter().flatten().find(|&&id| id as usize >= self.config.vocab_size) {
            bail!("token id {id} is outside the vocabulary of {}; is it the right tokenizer?", self.config.vocab_size);
        }
        let texts: Vec<&[u32]> = rows.iter().map(|row| &row[..=self.pooled_position(row)]).collect();
        let segments = Segments::of_lengths(texts.iter().map(|t| t.len()));
        let positions: Vec<u32> = texts.iter().flat_map(|t| 0..t.len() as u32).collect();
        let ends: Vec<u32> = segments.spans().map(|(start, length)| (start + length - 1) as u32).collect();
        let x = ops::embedding(&self.token_embedding, &texts.concat())?; // (rows, width)
        let x = ops::add_embedding(&x, &self.position_embedding, &positions)?;
        // The norm works on each token alone: only the pooled ones need it.
        self.final_norm.forward(&self.stack.forward_pooled(x, &segments, &ends)?)
    }

    fn pooled_position(&self, ids: &[u32]) -> usize {
        let wanted = match self.config.eos {
            EosRule::HighestId => ids.iter().copied().max().unwrap_or(0),
            EosRule::FirstEqual(id) => id,
        };
        // transformers takes position 0 where there is no end of text: argmax over a row of zeros.
        ids.iter().position(|&id| id == wanted).unwrap_or(0)
    }
}
