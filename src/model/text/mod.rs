//! Text towers: token ids in, one state a text out. A new tower is a file here and a variant in [`TextConfig`] and
//! [`TextTower`]; the files that it is published in are a table in `checkpoint/text.rs`.

mod bert;
mod clip_text;

use candle_core::{Result, Tensor, bail};

pub use bert::{BertConfig, TextPool};
pub use clip_text::{ClipTextConfig, EosRule};

use super::config::TextConfig;
use super::params::{Builder, Part};
use crate::ops::Value;

pub(super) enum TextTower {
    Clip(clip_text::ClipText),
    Bert(bert::Bert),
}

impl TextTower {
    pub fn new(b: &Builder, config: &TextConfig) -> Result<Self> {
        let b = &b.enter("text_model").part(Part::Text);
        Ok(match config {
            TextConfig::Clip(c) => Self::Clip(clip_text::ClipText::new(b, c)?),
            TextConfig::Bert(c) => Self::Bert(bert::Bert::new(b, c)?),
        })
    }

    /// input_ids: (batch, tokens) u32, padded on the right → (batch, width).
    pub fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        match self {
            Self::Clip(tower) => tower.forward(input_ids),
            Self::Bert(tower) => tower.forward(input_ids),
        }
    }
}

/// The rows of a batch, checked against the model's limits.
fn rows(input_ids: &Tensor, context_length: usize, vocab_size: usize) -> Result<Vec<Vec<u32>>> {
    let (_, tokens) = input_ids.dims2()?;
    if tokens > context_length {
        bail!("texts have {tokens} tokens, the model takes {context_length}");
    }
    let rows: Vec<Vec<u32>> = input_ids.to_vec2()?;
    if let Some(id) = rows.iter().flatten().find(|&&id| id as usize >= vocab_size) {
        bail!("token id {id} is outside the vocabulary of {vocab_size}; is it the right tokenizer?");
    }
    Ok(rows)
}
