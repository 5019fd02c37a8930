//! Vision transformers: CLIP's, ViT, DeiT, DINOv2, BEiT, SigLIP's, and timm's within open_clip.

mod config;
mod draw;
mod formats;
mod layers;
mod names;
mod open_clip;

use anyhow::Result;

use self::config::{VitConfig, VitPool};
use super::tower::{LearntPositions, PatchRows, VisionConfig, VisionTower};
use crate::model::format::Tower;
use crate::model::freeze::FreezeDepth;
use crate::model::graph::{Drawing, Edge};
use crate::model::layers::transformer::{transformer_activations, transformer_multiply_adds, transformer_operands};
use crate::model::params::Builder;

/// The row of [`crate::model::towers`].
pub const TOWER: Tower<Box<dyn VisionConfig>> =
    Tower { formats: formats::FORMATS, open_clip: Some(open_clip::OPEN_CLIP) };

impl VisionConfig for VitConfig {
    fn name(&self) -> &'static str {
        "vision transformer"
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
        self.layers
    }

    fn layer_activations(&self) -> usize {
        transformer_activations(self.tokens(), self.layers, self.width, self.intermediate)
    }

    fn operands(&self) -> usize {
        transformer_operands(self.tokens(), self.layers, self.width, self.intermediate, false)
    }

    fn check(&self) -> Result<()> {
        self.check()
    }

    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn VisionTower>> {
        Ok(Box::new(layers::Vit::new(b, self)?))
    }

    fn draw(&self, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
        draw::draw(self, d, pixel_values)
    }

    /// All rows, where only some blocks are frozen.
    fn frozen_numbers(&self, frozen: FreezeDepth) -> Option<usize> {
        Some(if frozen == FreezeDepth::All { self.width } else { self.tokens() * self.width })
    }

    fn multiply_adds(&self) -> Option<usize> {
        let patches = (self.image_size / self.patch_size).pow(2) * 3 * self.patch_size.pow(2) * self.width;
        Some(patches + transformer_multiply_adds(self.tokens(), self.layers, self.width, self.intermediate))
    }

    /// Where places are added to patches, a patch knows its place without the others.
    fn drops_patches(&self) -> bool {
        self.positions && !self.relative_positions
    }

    fn fixed_size(&self) -> Option<&'static str> {
        self.relative_positions.then_some("has learnt scores by relative position")
    }

    fn learnt_positions(&self) -> Option<LearntPositions> {
        self.positions.then(|| LearntPositions {
            weight: "embeddings.position_embedding.weight",
            before: self.position_rows_before_patches(),
            grid: self.grid(),
        })
    }

    fn patch_rows(&self) -> Option<PatchRows> {
        let pooled = matches!(self.pool, VitPool::Cls | VitPool::Dense).then_some(self.prefix.registers);
        Some(PatchRows { before: self.prefix_rows(), grid: self.grid(), pooled })
    }

    fn state_in_python(&self) -> String {
        match self.pool {
            VitPool::Mean => format!("image.last_hidden_state[:, {}:].mean(1)", self.prefix_rows()),
            // CLIP's class norms the class token alone, as its pooler_output.
            VitPool::Cls if !self.final_norm || !self.pre_norm => "image.last_hidden_state[:, 0]".into(),
            _ => "image.pooler_output.flatten(1)".into(),
        }
    }
}
