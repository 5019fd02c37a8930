//! The contrastive loss over the batch diagonal: each image to its own report and back.

use candle_core::{Result, Tensor};

use super::cross_entropy::{self, CrossEntropy, Targets, cross_entropy};
use super::smoothing;
use crate::config::Direction;

/// `(CE(sim_i2t) + CE(sim_t2i)) / 2` CLIP's objective, with label smoothing as in BLIP-2.
#[derive(Clone, Copy, Debug)]
pub struct ClipLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
}

/// The loss and what is logged beside it.
#[derive(Clone, Debug)]
pub struct ClipLossOutput {
    /// Scalar, differentiable.
    pub loss: Tensor,
    /// The same without smoothing.
    pub loss_hard: f64,
    /// `loss` minus the lowest value that smoothing allows.
    pub loss_excess: f64,
    /// `ln N`.
    pub chance: f64,
    /// Share of rows (over the counted directions) whose own partner has the highest similarity.
    pub accuracy: f64,
}

impl ClipLoss {
    /// The loss of L2-normalised `image_features` and `text_features`, both (batch, embed_dim), with `scale` a scalar
    /// tensor, `logit_scale.exp()`. Row i of one belongs to row i of the other.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, image_features: &Tensor, text_features: &Tensor, scale: &Tensor) -> Result<ClipLossOutput> {
        let sim_i2t = image_features.matmul(&text_features.t()?)?.broadcast_mul(scale)?; // (batch, batch)
        let sims = match self.direction {
            Direction::ImageToText => vec![sim_i2t],
            Direction::TextToImage => vec![sim_i2t.t()?.contiguous()?],
            Direction::Both => vec![sim_i2t.clone(), sim_i2t.t()?.contiguous()?],
        };
        let batch = image_features.dim(0)?;
        let targets: Vec<i64> = (0..batch as i64).collect();
        let smoothed = CrossEntropy { label_smoothing: self.label_smoothing, ..Default::default() };
        let mut loss: Option<Tensor> = None;
        let (mut loss_hard, mut accuracy) = (0.0, 0.0);
        for sim in &sims {
            let one = cross_entropy(sim, Targets::Indices(&targets), &smoothed)?;
            loss = Some(match loss {
                Some(sum) => (sum + one)?,
                None => one,
            });
            let detached = sim.detach();
            loss_hard += scalar(&cross_entropy(&detached, Targets::Indices(&targets), &CrossEntropy::default())?)?;
            accuracy += cross_entropy::accuracy(&detached, &targets)?;
        }
        let n = sims.len() as f64;
        let loss = (loss.expect("one direction at least counts") / n)?;
        let loss_excess = scalar(&loss)? - smoothing::floor(batch, self.label_smoothing);
        Ok(ClipLossOutput {
            loss,
            loss_hard: loss_hard / n,
            loss_excess,
            chance: smoothing::chance(batch),
            accuracy: accuracy / n,
        })
    }
}

fn scalar(x: &Tensor) -> Result<f64> {
    x.to_dtype(candle_core::DType::F64)?.to_scalar()
}
