//! The numbers of a ModernBERT.

use anyhow::{Result, ensure};

use crate::model::layers::transformer::check_transformer;
use crate::model::text::pool::TextPool;
use crate::ops::Activation;

/// The shape of a ModernBERT.
#[derive(Clone, Debug, PartialEq)]
pub struct ModernBertConfig {
    /// Width of a token's state.
    pub width: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// What each block attends to.
    pub blocks: Vec<Reach>,
    /// Tokens known.
    pub vocab_size: usize,
    /// Places that texts may have.
    pub positions: usize,
    /// Longest text in tokens.
    pub context_length: usize,
    /// Activation of the feed-forward layer's first half; the second half is its gate.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
    /// What texts are padded with.
    pub pad_id: u32,
    /// Pooling.
    pub pool: TextPool,
}

/// How far a block's tokens see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reach {
    /// Places to each side; `None` for the whole text.
    pub window: Option<usize>,
    /// Base of the rotary frequencies.
    pub theta: f64,
}

impl ModernBertConfig {
    /// Whether the numbers make a tower.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<()> {
        check_transformer("text_config", self.width, self.heads, self.blocks.len(), self.layer_norm_eps)?;
        let head_width = self.width / self.heads;
        ensure!(
            head_width.is_multiple_of(2),
            "text_config: heads are {head_width} wide; rotary positions take even widths"
        );
        ensure!(
            self.context_length <= self.positions,
            "texts of {} tokens: the model was made for up to {}",
            self.context_length,
            self.positions
        );
        Ok(())
    }
}
