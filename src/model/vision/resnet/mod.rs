//! ResNets: the classic one, and CLIP's.

mod config;
mod draw;
mod formats;
mod layers;
mod open_clip;

use anyhow::Result;

use self::config::ResNetConfig;
use super::tower::{LearntPositions, VisionConfig, VisionTower};
use crate::model::format::Tower;
use crate::model::graph::{Drawing, Edge};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn VisionConfig>> =
    Tower { formats: formats::FORMATS, open_clip: Some(open_clip::OPEN_CLIP) };

impl VisionConfig for ResNetConfig {
    fn name(&self) -> &'static str {
        "ResNet"
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

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn VisionTower>> {
        Ok(Box::new(layers::ResNet::new(b, self)?))
    }

    fn draw(&self, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
        draw::draw(self, d, pixel_values)
    }

    fn takes_any_size(&self) -> bool {
        !self.clip
    }

    fn learnt_positions(&self) -> Option<LearntPositions> {
        let weight = "attention_pool.position_embedding.weight";
        self.clip.then(|| LearntPositions { weight, before: 1, grid: self.grid() })
    }

    fn preprocessing(&self) -> &'static str {
        "convnext"
    }
}
