//! What every text tower gives: its numbers, and its layers over a set of weights.

use std::any::Any;
use std::fmt::Debug;

use anyhow::Result;
use candle_core::{Tensor, bail};

use crate::model::graph::{Drawing, Edge};
use crate::model::params::Builder;
use crate::ops::{Segments, Value};

/// The shape of a text tower, and what the rest of the program asks of it.
pub trait TextConfig: CloneTextConfig + Any + Debug + Send + Sync {
    /// The kind of tower, for messages.
    fn name(&self) -> &'static str;

    /// Width of a text's state.
    fn width(&self) -> usize;

    /// Tokens known.
    fn vocab_size(&self) -> usize;

    /// Longest text in tokens.
    fn context_length(&self) -> usize;

    /// Asks for another length. Where positions are resized for it, that happens when weights are loaded.
    fn set_context_length(&mut self, length: usize);

    /// Blocks that freezing counts.
    fn blocks(&self) -> usize;

    /// Numbers kept for the backward pass of one text of the longest kind, about.
    fn activations(&self) -> usize;

    /// Those of [`Self::activations`] that only products read: in bf16 on the CPU each takes half.
    fn operands(&self) -> usize;

    /// Multiply-adds of the way of a text of so many tokens through the tower.
    fn multiply_adds(&self, tokens: usize) -> usize;

    /// Whether the numbers make a tower.
    ///
    /// # Errors
    /// The first that does not.
    fn check(&self) -> Result<()>;

    /// The tower over the weights that `b` hands out.
    ///
    /// # Errors
    /// A weight that `b` does not have.
    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn TextTower>>;

    /// The tower as a graph: input_ids and attention_mask, (batch, tokens) i64 and 1 or 0, padded on the right →
    /// (batch, width). A tower that needs no mask leaves it unread.
    ///
    /// # Errors
    /// A weight that was not loaded.
    fn draw(&self, d: &Drawing, input_ids: &Edge, attention_mask: &Edge) -> Result<Edge>;

    /// The row that stands for a text of so many, where attention is over; `None` where that is their mean.
    fn pooled_row(&self, rows: usize) -> Option<usize>;

    /// Whether padding is part of the text: every text is padded to the context length, and padding is attended to.
    fn attends_padding(&self) -> bool {
        false
    }

    /// The token that texts end with, for made-up texts.
    fn end_id(&self) -> u32 {
        self.vocab_size() as u32 - 1
    }

    /// The weight, behind `text_model.`, whose rows are resized to another context length; `None` where a shorter text
    /// uses the first of them.
    fn learnt_positions(&self) -> Option<&'static str> {
        None
    }

    /// The state as Python code over `text`, what transformers' class of the tower gives.
    fn state_in_python(&self) -> &'static str {
        "text.pooler_output"
    }
}

/// Copying and comparing behind a pointer: every config that can be copied and compared has it.
pub trait CloneTextConfig {
    /// A copy.
    fn boxed(&self) -> Box<dyn TextConfig>;

    /// Whether both are of one kind and have the same numbers.
    fn equals(&self, other: &dyn TextConfig) -> bool;
}

impl<T: TextConfig + Clone + PartialEq> CloneTextConfig for T {
    fn boxed(&self) -> Box<dyn TextConfig> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn TextConfig) -> bool {
        (other as &dyn Any).downcast_ref::<T>() == Some(self)
    }
}

impl Clone for Box<dyn TextConfig> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

impl PartialEq for dyn TextConfig {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other)
    }
}

/// The layers of a text tower over a set of weights.
pub trait TextTower {
    /// input_ids: (batch, tokens) u32, padded on the right → (batch, width).
    ///
    /// # Errors
    /// Longer texts than the tower takes, ids outside the vocabulary.
    fn forward(&self, input_ids: &Tensor) -> candle_core::Result<Value>;

    /// [`Self::forward`] with a row for each token, as the pooling reads it: (batch, width), (rows, width), and which
    /// rows are whose. A text's rows are its first tokens, as many as the tower looks at.
    ///
    /// # Errors
    /// As [`Self::forward`]; a tower that keeps no tokens.
    fn with_tokens(&self, _input_ids: &Tensor) -> candle_core::Result<(Value, Value, Segments)> {
        candle_core::bail!(
            "this text tower gives one vector a text and none a token, which --late compares; leave it out"
        )
    }
}

/// The rows of a batch, checked against the tower's limits.
///
/// # Errors
/// What is past them.
pub fn rows(input_ids: &Tensor, config: &dyn TextConfig) -> candle_core::Result<Vec<Vec<u32>>> {
    let (_, tokens) = input_ids.dims2()?;
    if tokens > config.context_length() {
        bail!("texts have {tokens} tokens, the model takes {}", config.context_length());
    }
    let rows: Vec<Vec<u32>> = input_ids.to_vec2()?;
    if let Some(id) = rows.iter().flatten().find(|&&id| id as usize >= config.vocab_size()) {
        bail!("token id {id} is outside the vocabulary of {}; is it the right tokenizer?", config.vocab_size());
    }
    Ok(rows)
}

/// Texts without their padding, one after the other.
pub struct PackedTexts {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Which are whose.
    pub segments: Segments,
    /// Each token's place in its text.
    pub positions: Vec<u32>,
}

impl PackedTexts {
    /// Leaves out what is `pad_id` at the end of each row, but never all of it.
    ///
    /// # Errors
    /// As [`rows`].
    pub fn of(input_ids: &Tensor, config: &dyn TextConfig, pad_id: u32) -> candle_core::Result<Self> {
        let rows = rows(input_ids, config)?;
        let length = |row: &[u32]| row.iter().rposition(|&id| id != pad_id).map_or(1, |last| last + 1);
        let texts: Vec<&[u32]> = rows.iter().map(|row| &row[..length(row).min(row.len())]).collect();
        Ok(Self {
            ids: texts.concat(),
            segments: Segments::of_lengths(texts.iter().map(|t| t.len())),
            positions: texts.iter().flat_map(|t| 0..t.len() as u32).collect(),
        })
    }
}
