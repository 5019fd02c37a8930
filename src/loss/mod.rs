//! Objectives. A loss takes features and a scale (or logits), never a batch or a model.
//!
//! To add one: a file here, a variant in [`crate::config::LossKind`], an arm where the step builds the loss.

pub mod clip;
pub mod cross_entropy;
pub mod explain;
mod siglip;
pub mod smoothing;

use candle_core::{Result, Tensor, bail};

pub use crate::config::Direction;
pub use clip::ClipLoss;
pub use cross_entropy::{CrossEntropy, Reduction, Targets, cross_entropy};

/// An objective over a batch of pairs: row i of one side belongs to row i of the other.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// Symmetric cross-entropy.
    Clip(ClipLoss),
    /// Pairwise sigmoid; needs a bias.
    Siglip,
}

/// The loss and what is logged beside it.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// Scalar, differentiable.
    pub loss: Tensor,
    /// The same without smoothing.
    pub loss_hard: f64,
    /// `loss` minus the lowest value that smoothing allows.
    pub loss_excess: f64,
    /// What knowing nothing costs: `ln N` for cross-entropy.
    pub chance: f64,
    /// Share of rows (over the counted directions) whose own partner has the highest similarity.
    pub accuracy: f64,
}

impl Loss {
    /// The loss of `image_features` and `text_features`, both (batch, embed_dim) and not normalised, with `scale` a scalar
    /// tensor, `logit_scale.exp()`, and `bias` what is added to scaled similarities.
    ///
    /// # Errors
    /// Shapes that do not fit; a loss that needs a bias and gets none.
    pub fn forward(&self, image: &Tensor, text: &Tensor, scale: &Tensor, bias: Option<&Tensor>) -> Result<LossOutput> {
        match (self, bias) {
            (Self::Clip(loss), _) => loss.forward(image, text, scale),
            (Self::Siglip, Some(bias)) => siglip::forward(image, text, scale, bias),
            (Self::Siglip, None) => bail!("the sigmoid loss needs a model with logit_bias"),
        }
    }

    /// Whether a bias changes it: a softmax does not see what is added to all similarities alike.
    pub fn uses_bias(&self) -> bool {
        matches!(self, Self::Siglip)
    }
}

/// Share of rows and columns of similarities whose highest is on the diagonal.
fn accuracy(sims: &Tensor) -> Result<f64> {
    let n = sims.dim(0)?;
    let mut right = 0;
    for sims in [sims.clone(), sims.t()?.contiguous()?] {
        let rows: Vec<Vec<f32>> = sims.to_vec2()?;
        let best = |(i, row): &(usize, &Vec<f32>)| row.iter().enumerate().all(|(k, v)| k == *i || *v < row[*i]);
        right += rows.iter().enumerate().filter(best).count();
    }
    Ok(right as f64 / (2 * n) as f64)
}
