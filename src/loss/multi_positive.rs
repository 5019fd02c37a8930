//! The contrastive loss where several reports of a batch fit an image: equal reports, one study, one label, or labels
//! that are alike.

use candle_core::{Result, Tensor, bail};

use super::soft_targets::SoftTargets;
use super::{Inputs, Part};
use crate::config::Direction;
use crate::ops::reference::l2_normalize;

/// Cross-entropy of each row of similarities against `(1 − ε) · alike / Σ alike + ε / K`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiPositiveLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
}

impl MultiPositiveLoss {
    pub(super) fn forward(&self, inputs: &Inputs, text: &Tensor) -> Result<Part> {
        let sims = l2_normalize(inputs.image)?.matmul(&l2_normalize(text)?.t()?)?.broadcast_mul(inputs.scale)?;
        let batch = sims.dim(0)?;
        let alike = &inputs.targets.alike;
        if alike.len() != batch * batch {
            bail!("{} numbers of likeness for {batch} pairs", alike.len());
        }
        // Likeness is symmetric, so one table serves both directions.
        let eps = self.label_smoothing;
        let mut hard = Vec::with_capacity(alike.len());
        for row in alike.chunks_exact(batch) {
            let all: f64 = row.iter().sum();
            hard.extend(row.iter().map(|a| a / all));
        }
        let soft = SoftTargets {
            smoothed: hard.iter().map(|p| (1.0 - eps) * p + eps / batch as f64).collect(),
            right: alike.chunks_exact(batch).map(|row| Some(row.iter().map(|a| *a > 0.0).collect())).collect(),
            hard,
            divisor: batch as f64,
        };
        let of_images = || soft.loss(&sims);
        let of_texts = || soft.loss(&sims.t()?.contiguous()?);
        match self.direction {
            Direction::ImageToText => of_images(),
            Direction::TextToImage => of_texts(),
            Direction::Both => Part::sum(&[(0.5, of_images()?), (0.5, of_texts()?)]),
        }
    }
}
