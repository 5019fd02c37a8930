//! Swin transformers.

mod config;
mod draw;
mod formats;
mod layers;

use anyhow::Result;

use self::config::SwinConfig;
use super::tower::{VisionConfig, VisionTower};
use crate::model::format::Tower;
use crate::model::graph::{Drawing, Edge};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn VisionConfig>> = Tower { formats: formats::FORMATS, open_clip: None };

impl VisionConfig for SwinConfig {
    fn name(&self) -> &'static str {
        "Swin transformer"
    }

    fn width(&self) -> usize {
        self.width()
    }

    fn image_size(&self) -> usize {
        self.image_size
    }

    fn set_image_size(&mut self, size: usize) {
        self.image_size = size;
    }

    fn blocks(&self) -> usize {
        self.depths.iter().sum()
    }

    fn layer_activations(&self) -> usize {
        self.activations()
    }

    fn operands(&self) -> usize {
        self.operands()
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn VisionTower>> {
        Ok(Box::new(layers::Swin::new(b, self)?))
    }

    fn draw(&self, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
        draw::draw(self, d, pixel_values)
    }
}
