//! EfficientNet and EfficientNet-Lite.

mod config;
mod draw;
mod formats;
mod layers;

use anyhow::Result;

use self::config::EfficientNetConfig;
use super::tower::{VisionConfig, VisionTower};
use crate::model::format::Tower;
use crate::model::graph::{Drawing, Edge};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn VisionConfig>> = Tower { formats: formats::FORMATS, open_clip: None };

impl VisionConfig for EfficientNetConfig {
    fn name(&self) -> &'static str {
        "EfficientNet"
    }

    fn width(&self) -> usize {
        self.width
    }

    fn image_size(&self) -> usize {
        self.image_size
    }

    fn set_image_size(&mut self, size: usize) {
        self.image_size = size;
    }

    fn blocks(&self) -> usize {
        self.blocks.len()
    }

    fn layer_activations(&self) -> usize {
        self.activations()
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn VisionTower>> {
        Ok(Box::new(layers::EfficientNet::new(b, self)?))
    }

    fn draw(&self, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
        draw::draw(self, d, pixel_values)
    }

    fn takes_any_size(&self) -> bool {
        self.any_size
    }

    fn preprocessing(&self) -> &'static str {
        self.preprocessing
    }
}
