//! ModernBERT.

mod config;
mod draw;
mod formats;
mod layers;

use anyhow::Result;

use self::config::ModernBertConfig;
use super::tower::{TextConfig, TextTower};
use crate::model::format::Tower;
use crate::model::graph::{Drawing, Edge};
use crate::model::layers::transformer::{transformer_activations, transformer_multiply_adds, transformer_operands};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn TextConfig>> = Tower { formats: formats::FORMATS, open_clip: None };

impl TextConfig for ModernBertConfig {
    fn name(&self) -> &'static str {
        "ModernBERT"
    }

    fn width(&self) -> usize {
        self.width
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn context_length(&self) -> usize {
        self.context_length
    }

    fn set_context_length(&mut self, length: usize) {
        self.context_length = length;
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn activations(&self) -> usize {
        // What is activated, its gate, and what comes of both.
        transformer_activations(self.context_length, self.blocks.len(), self.width, 3 * self.intermediate)
    }

    fn operands(&self) -> usize {
        transformer_operands(self.context_length, self.blocks.len(), self.width, 3 * self.intermediate, false)
    }

    fn multiply_adds(&self, tokens: usize) -> usize {
        // Three matrices in place of two in the feed-forward layer.
        transformer_multiply_adds(tokens, self.blocks.len(), self.width, self.intermediate * 3 / 2)
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn TextTower>> {
        Ok(Box::new(layers::ModernBert::new(b, self)?))
    }

    fn draw(&self, d: &Drawing, input_ids: &Edge, attention_mask: &Edge) -> Result<Edge> {
        draw::draw(self, d, input_ids, attention_mask)
    }

    fn pooled_row(&self, rows: usize) -> Option<usize> {
        self.pool.row(rows)
    }

    fn state_in_python(&self) -> &'static str {
        self.pool.in_python()
    }
}
