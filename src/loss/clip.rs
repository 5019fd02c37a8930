//! The contrastive loss over the batch diagonal: each image to its own report and back.

use candle_core::{DType, Result, Tensor};

use super::{LossOutput, smoothing};
use crate::config::Direction;
use crate::ops::{Contrastive, contrastive};

/// `(CE(sim_i2t) + CE(sim_t2i)) / 2` CLIP's objective, with label smoothing as in BLIP-2.
#[derive(Clone, Copy, Debug)]
pub struct ClipLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
}

impl ClipLoss {
    /// The loss of `image_features` and `text_features`, both (batch, embed_dim) and not normalised, with `scale` a scalar
    /// tensor, `logit_scale.exp()`. Row i of one belongs to row i of the other.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, image_features: &Tensor, text_features: &Tensor, scale: &Tensor) -> Result<LossOutput> {
        let options = Contrastive {
            label_smoothing: self.label_smoothing,
            image_to_text: self.direction != Direction::TextToImage,
            text_to_image: self.direction != Direction::ImageToText,
        };
        let output = contrastive(image_features, text_features, scale, &options)?;
        let batch = image_features.dim(0)?;
        let loss = output.loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(LossOutput {
            loss: output.loss,
            loss_hard: output.loss_hard,
            loss_excess: loss - smoothing::floor(batch, self.label_smoothing),
            chance: smoothing::chance(batch),
            accuracy: output.accuracy,
        })
    }
}
