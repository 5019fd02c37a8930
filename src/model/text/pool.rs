//! What stands for the whole text in towers without a token of their own for it.

use anyhow::Result;

use crate::model::format::Pooling;
use crate::model::graph::{Drawing, Edge};
use crate::ops::{self, Segments, Value};

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

impl TextPool {
    /// The pool that a config's word asks for.
    pub fn of(pooling: Pooling) -> Self {
        match pooling {
            Pooling::Cls => Self::Cls,
            Pooling::Mean => Self::Mean,
            Pooling::Eos => Self::Eos,
            Pooling::Pooler => Self::Dense,
        }
    }

    /// [`Self::of`] for `tower`, which has no pooler.
    ///
    /// # Errors
    /// The pooler is asked for.
    pub fn without_pooler(pooling: Pooling, tower: &str) -> Result<Self> {
        match pooling {
            Pooling::Pooler => {
                anyhow::bail!("text_pooling is pooler; {tower} has none: allowed are cls, mean and eos")
            }
            other => Ok(Self::of(other)),
        }
    }

    /// The row that stands for a text of so many; `None` where that is their mean.
    pub fn row(self, rows: usize) -> Option<usize> {
        match self {
            Self::Mean => None,
            Self::Eos => rows.checked_sub(1),
            Self::Cls | Self::Dense => Some(0),
        }
    }

    /// [`Self::row`] of each text, among the rows of all; `None` where it is the mean.
    pub fn rows(self, segments: &Segments) -> Option<Vec<u32>> {
        segments.spans().map(|(first, length)| Some((first + self.row(length)?) as u32)).collect()
    }

    /// The state of each text, of the rows of all, (rows, width) → (texts, width).
    ///
    /// # Errors
    /// Other counts than `segments` says.
    pub fn rows_of(self, tokens: &Value, segments: &Segments) -> candle_core::Result<Value> {
        match self.rows(segments) {
            Some(pooled) => ops::select_rows(tokens, &pooled),
            None => ops::mean_rows(tokens, segments),
        }
    }

    /// The state, before a dense pooler. x: (batch, tokens, width), attention_mask: (batch, tokens) → (batch, width).
    ///
    /// # Errors
    /// None in practice.
    pub fn draw(self, d: &Drawing, x: &Edge, attention_mask: &Edge) -> Result<Edge> {
        match self {
            Self::Cls | Self::Dense => Ok(d.gather(x, &d.int(0)?, 1)),
            Self::Mean => d.masked_mean(x, attention_mask),
            Self::Eos => {
                let length = d.sum(attention_mask, 1, false)?;
                d.rows_at(x, &d.op("Sub", &[&length, &d.int(1)?]))
            }
        }
    }

    /// The state as Python code over `text`, what transformers' class of the tower gives.
    pub fn in_python(self) -> &'static str {
        match self {
            Self::Cls => "text.last_hidden_state[:, 0]",
            Self::Dense => "text.pooler_output",
            Self::Mean => "(text.last_hidden_state * mask).sum(1) / mask.sum(1)",
            Self::Eos => "text.last_hidden_state[range(len(mask)), tokens[\"attention_mask\"].sum(1) - 1]",
        }
    }
}
