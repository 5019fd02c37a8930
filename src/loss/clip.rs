//! The contrastive loss over the batch diagonal: each image to its own report and back.

use candle_core::{Result, Tensor};

use super::{Inputs, Part, smoothing};
use crate::config::Direction;
use crate::ops::{Contrastive, contrastive};

/// `(CE(sim_i2t) + CE(sim_t2i)) / 2` CLIP's objective, with label smoothing as in BLIP-2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
}

impl ClipLoss {
    pub(super) fn forward(&self, inputs: &Inputs, text: &Tensor) -> Result<Part> {
        let options = Contrastive {
            label_smoothing: self.label_smoothing,
            image_to_text: self.direction != Direction::TextToImage,
            text_to_image: self.direction != Direction::ImageToText,
        };
        let output = contrastive(inputs.image, text, inputs.scale, &options)?;
        let batch = inputs.image.dim(0)?;
        Ok(Part {
            loss: output.loss,
            hard: output.loss_hard,
            floor: smoothing::floor(batch, self.label_smoothing),
            chance: smoothing::chance(batch),
            accuracy: output.accuracy,
        })
    }
}
