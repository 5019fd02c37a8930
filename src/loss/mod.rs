//! Objectives. A loss takes features and a scale, never a batch or a model.
//!
//! To add one: a file here, a variant of [`Loss`] and of [`crate::config::LossKind`], an arm where `train/setup.rs` builds
//! it from the config.

mod class;
pub mod clip;
pub mod cross_entropy;
pub mod explain;
mod multi_positive;
mod siglip;
pub mod smoothing;
mod soft_targets;

use candle_core::{DType, Result, Tensor, bail};

pub use crate::config::Direction;
pub use class::{ClassLoss, MultiLabelLoss};
pub use clip::ClipLoss;
pub use cross_entropy::{CrossEntropy, Reduction, Targets, cross_entropy};
pub use multi_positive::MultiPositiveLoss;
pub use siglip::SiglipLoss;

/// An objective.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// Symmetric cross-entropy over the diagonal.
    Clip(ClipLoss),
    /// Pairwise sigmoid; needs a bias.
    Siglip(SiglipLoss),
    /// Symmetric cross-entropy over all that is alike.
    MultiPositive(MultiPositiveLoss),
    /// Images against classes.
    Class(ClassLoss),
    /// Images against findings.
    MultiLabel(MultiLabelLoss),
    /// Several, each with its weight.
    Sum(Vec<(f64, Loss)>),
}

/// What a loss may look at.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// (batch, embed_dim), not normalised.
    pub image: &'a Tensor,
    /// The same of the reports: row i belongs to image i. `None` where [`Loss::uses_reports`] is false.
    pub text: Option<&'a Tensor>,
    /// `logit_scale.exp()`, a scalar.
    pub scale: &'a Tensor,
    /// What is added to scaled similarities, a scalar, where the model has it.
    pub bias: Option<&'a Tensor>,
    /// Features of the prompts' sentences, (sentences, embed_dim), not normalised, and how many belong to each direction.
    pub prompts: Option<(&'a Tensor, &'a [usize])>,
    /// What the rows are.
    pub targets: &'a PairTargets,
}

/// What is known of the pairs of a batch, as far as the loss asks for it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairTargets {
    /// Class of each image; `None` takes no part.
    pub classes: Vec<Option<usize>>,
    /// Whether each image has each finding; `None` takes no part.
    pub findings: Vec<Vec<Option<bool>>>,
    /// (batch · batch) how alike two pairs are, from 0; symmetric, above 0 on the diagonal.
    pub alike: Vec<f64>,
}

/// One objective's part of a loss.
#[derive(Clone, Debug)]
pub struct Part {
    /// Scalar, differentiable.
    pub loss: Tensor,
    /// The same without smoothing.
    pub hard: f64,
    /// The lowest value that the targets allow.
    pub floor: f64,
    /// What knowing nothing costs.
    pub chance: f64,
    /// Share of rows whose highest similarity is right.
    pub accuracy: f64,
}

impl Part {
    /// The weighted sum; of accuracy the weighted mean.
    fn sum(parts: &[(f64, Self)]) -> Result<Self> {
        let Some((_, first)) = parts.first() else { bail!("a sum of no objectives") };
        let mut loss = (&first.loss * parts[0].0)?;
        for (weight, part) in &parts[1..] {
            loss = (loss + (&part.loss * *weight)?)?;
        }
        let sum = |pick: fn(&Self) -> f64| parts.iter().map(|(weight, part)| weight * pick(part)).sum();
        let accuracy =
            parts.iter().map(|(w, p)| w * p.accuracy).sum::<f64>() / parts.iter().map(|(w, _)| w).sum::<f64>();
        Ok(Self { loss, hard: sum(|p| p.hard), floor: sum(|p| p.floor), chance: sum(|p| p.chance), accuracy })
    }
}

/// The loss and what is logged beside it.
#[derive(Clone, Debug)]
pub struct LossOutput {
    /// Scalar, differentiable.
    pub loss: Tensor,
    /// The same without smoothing.
    pub loss_hard: f64,
    /// `loss` minus the lowest value that the targets allow.
    pub loss_excess: f64,
    /// What knowing nothing costs: `ln N` for cross-entropy.
    pub chance: f64,
    /// Share of rows (over the counted directions; over parts by weight) whose highest similarity is right.
    pub accuracy: f64,
}

impl Loss {
    /// The loss of a batch.
    ///
    /// # Errors
    /// Shapes that do not fit; something that the loss needs and `inputs` lacks.
    pub fn forward(&self, inputs: &Inputs) -> Result<LossOutput> {
        let part = self.part(inputs)?;
        let value = part.loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
        Ok(LossOutput {
            loss: part.loss,
            loss_hard: part.hard,
            loss_excess: value - part.floor,
            chance: part.chance,
            accuracy: part.accuracy,
        })
    }

    fn part(&self, inputs: &Inputs) -> Result<Part> {
        match (self, inputs.text, inputs.bias) {
            (Self::Clip(loss), Some(text), _) => loss.forward(inputs, text),
            (Self::MultiPositive(loss), Some(text), _) => loss.forward(inputs, text),
            (Self::Siglip(loss), Some(text), Some(bias)) => loss.forward(inputs, text, bias),
            (Self::Siglip(_), _, None) => bail!("the sigmoid loss needs a model with logit_bias"),
            (Self::Clip(_) | Self::MultiPositive(_) | Self::Siglip(_), None, _) => bail!("this loss needs reports"),
            (Self::Class(loss), ..) => loss.forward(inputs),
            (Self::MultiLabel(loss), ..) => loss.forward(inputs),
            (Self::Sum(losses), ..) => {
                let part = |(weight, loss): &(f64, Self)| Ok((*weight, loss.part(inputs)?));
                Part::sum(&losses.iter().map(part).collect::<Result<Vec<_>>>()?)
            }
        }
    }

    fn any(&self, is: fn(&Self) -> bool) -> bool {
        match self {
            Self::Sum(losses) => losses.iter().any(|(_, loss)| loss.any(is)),
            one => is(one),
        }
    }

    /// Whether a bias changes it: a softmax does not see what is added to all similarities alike.
    pub fn uses_bias(&self) -> bool {
        self.any(|loss| matches!(loss, Self::Siglip(_)))
    }

    /// Whether it looks at reports.
    pub fn uses_reports(&self) -> bool {
        self.any(|loss| matches!(loss, Self::Clip(_) | Self::Siglip(_) | Self::MultiPositive(_)))
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
