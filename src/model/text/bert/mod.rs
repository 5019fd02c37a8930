//! BERT and its kin: RoBERTa, XLM-R, DistilBERT.

mod config;
mod draw;
mod formats;
mod layers;
mod open_clip;

use anyhow::Result;

use self::config::BertConfig;
use super::tower::{TextConfig, TextTower};
use crate::model::format::Tower;
use crate::model::graph::{Drawing, Edge};
use crate::model::layers::transformer::{transformer_activations, transformer_multiply_adds, transformer_operands};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn TextConfig>> =
    Tower { formats: formats::FORMATS, open_clip: Some(open_clip::OPEN_CLIP) };

impl TextConfig for BertConfig {
    fn name(&self) -> &'static str {
        "BERT"
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
        self.layers
    }

    fn activations(&self) -> usize {
        transformer_activations(self.context_length, self.layers, self.width, self.intermediate)
    }

    fn operands(&self) -> usize {
        transformer_operands(self.context_length, self.layers, self.width, self.intermediate, true)
    }

    fn multiply_adds(&self, tokens: usize) -> usize {
        transformer_multiply_adds(tokens, self.layers, self.width, self.intermediate)
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn TextTower>> {
        Ok(Box::new(layers::Bert::new(b, self)?))
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
