//! CLIP's text transformer, and SigLIP's.

mod config;
mod draw;
mod formats;
mod layers;
mod open_clip;

use anyhow::Result;

use self::config::{ClipTextConfig, EosRule};
use super::tower::{TextConfig, TextTower};
use crate::model::format::Tower;
use crate::model::graph::{Drawing, Edge};
use crate::model::layers::transformer::{transformer_activations, transformer_multiply_adds, transformer_operands};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn TextConfig>> =
    Tower { formats: formats::FORMATS, open_clip: Some(open_clip::OPEN_CLIP) };

impl TextConfig for ClipTextConfig {
    fn name(&self) -> &'static str {
        "CLIP text transformer"
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
        transformer_operands(self.context_length, self.layers, self.width, self.intermediate, false)
    }

    fn multiply_adds(&self, tokens: usize) -> usize {
        transformer_multiply_adds(tokens, self.layers, self.width, self.intermediate)
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn TextTower>> {
        Ok(Box::new(layers::ClipText::new(b, self)?))
    }

    fn draw(&self, d: &Drawing, input_ids: &Edge, attention_mask: &Edge) -> Result<Edge> {
        draw::draw(self, d, input_ids, attention_mask)
    }

    fn pooled_row(&self, rows: usize) -> Option<usize> {
        rows.checked_sub(1)
    }

    fn attends_padding(&self) -> bool {
        self.eos == EosRule::LastRow
    }

    fn end_id(&self) -> u32 {
        match self.eos {
            EosRule::FirstEqual(id) => id,
            EosRule::HighestId | EosRule::LastRow => self.vocab_size as u32 - 1,
        }
    }

    fn learnt_positions(&self) -> Option<&'static str> {
        Some("embeddings.position_embedding.weight")
    }
}
