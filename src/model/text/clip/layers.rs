//! The text transformers of CLIP (causal) and SigLIP (not causal, padding attended to).

use candle_core::{Result, Tensor};

use super::config::{ClipTextConfig, EosRule};
use crate::model::layers::norm::LayerNorm;
use crate::model::layers::transformer::{Stack, StackConfig};
use crate::model::params::{Builder, Depth, Init};
use crate::model::text::tower::{TextTower, rows};
use crate::ops::{self, Segments, Value};

pub struct ClipText {
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
        let (tokens, positions) = ((c.vocab_size, c.width), (c.context_length, c.width));
        Ok(Self {
            token_embedding: embeddings.matrix("token_embedding.weight", tokens, Init::Normal(0.02))?,
            position_embedding: embeddings.vector("position_embedding.weight", positions, Init::Normal(0.02))?,
            stack: Stack::new(b, &stack_config(c))?,
            final_norm: LayerNorm::new(&b.depth(Depth::Final), "final_layer_norm", c.width, c.layer_norm_eps)?,
            config: c.clone(),
        })
    }

    /// Embeddings of the texts' tokens, (rows, width), which are whose, and the row that stands for each text. Where
    /// attention is causal, nothing behind a text's pooled token can reach it: each text is cut there, and the texts
    /// lie one after the other without padding.
    fn embedded(&self, input_ids: &Tensor) -> Result<(Value, Segments, Vec<u32>)> {
        let rows = rows(input_ids, &self.config)?;
        let ends: Vec<usize> = rows.iter().map(|row| self.pooled_position(row)).collect();
        let cut = |row: &'_ [u32], end: usize| if self.config.causal { end + 1 } else { row.len() };
        let texts: Vec<&[u32]> = rows.iter().zip(&ends).map(|(row, &end)| &row[..cut(row, end)]).collect();
        let segments = Segments::of_lengths(texts.iter().map(|t| t.len()));
        let positions: Vec<u32> = texts.iter().flat_map(|t| 0..t.len() as u32).collect();
        let pooled: Vec<u32> = segments.firsts().iter().zip(&ends).map(|(first, end)| (first + end) as u32).collect();
        let x = ops::embedding(&self.token_embedding, &texts.concat())?;
        Ok((ops::add_embedding(&x, &self.position_embedding, &positions)?, segments, pooled))
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

pub(super) fn stack_config(c: &ClipTextConfig) -> StackConfig {
    StackConfig {
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
    }
}

impl TextTower for ClipText {
    fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let (x, segments, pooled) = self.embedded(input_ids)?;
        // The norm works on each token alone: only the pooled ones need it.
        self.final_norm.forward(&self.stack.forward_pooled(0, x, &segments, &pooled)?)
    }

    fn with_tokens(&self, input_ids: &Tensor) -> Result<(Value, Value, Segments)> {
        let (x, segments, pooled) = self.embedded(input_ids)?;
        let tokens = self.final_norm.forward(&self.stack.forward_all(0, x, &segments)?)?;
        Ok((ops::select_rows(&tokens, &pooled)?, tokens, segments))
    }
}
