//! The numbers of a BERT.

use anyhow::{Result, ensure};

use crate::model::layers::transformer::check_transformer;
use crate::model::text::pool::TextPool;
use crate::ops::Activation;

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
    pub fn check(&self) -> Result<()> {
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
