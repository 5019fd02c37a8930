//! The numbers of a CLIP's text transformer.

use anyhow::{Result, ensure};

use crate::model::layers::transformer::check_transformer;
use crate::ops::Activation;

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

    pub fn check(&self) -> Result<()> {
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
