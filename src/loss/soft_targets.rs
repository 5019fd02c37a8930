//! Cross-entropy against weighted targets, with its floor: what the objectives over classes and keys come down to.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::ops::log_softmax;

use super::cross_entropy::index_masks;
use super::objective::Term;

/// Targets of (rows, classes) logits: `smoothed` and `hard` say how much −ln q of each class counts.
pub(super) struct SoftTargets {
    /// (rows · classes)
    pub smoothed: Vec<f64>,
    /// The same at ε = 0.
    pub hard: Vec<f64>,
    /// What the sums are divided by; 0 where no row counts.
    pub divisor: f64,
    /// Classes that a row may name to be right; nothing for rows that do not count.
    pub right: Vec<Option<Vec<bool>>>,
}

impl SoftTargets {
    /// One class a row, `None` for rows that do not count, as `F.cross_entropy` smooths and weighs them.
    pub fn of_classes(targets: &[Option<usize>], weights: &[f64], eps: f64) -> Result<Self> {
        const IGNORED: i64 = -100;
        let classes = weights.len();
        let indices: Vec<i64> = targets.iter().map(|t| t.map_or(IGNORED, |t| t as i64)).collect();
        let (hard, everywhere, divisor) = index_masks(&indices, weights, IGNORED)?;
        let smoothed = hard.iter().zip(everywhere).map(|(h, e)| (1.0 - eps) * h + eps / classes as f64 * e).collect();
        let right = targets.iter().map(|t| t.map(|t| (0..classes).map(|k| k == t).collect())).collect();
        Ok(Self { smoothed, hard, divisor, right })
    }

    /// The loss of `logits`. Where no row counts it is 0, with a gradient of 0.
    pub fn loss(&self, logits: &Tensor) -> Result<Term> {
        let (rows, classes) = logits.dims2()?;
        if self.divisor == 0.0 {
            // Not times 0: candle leaves that out of the graph.
            let nothing = (logits * logits.zeros_like()?)?.sum_all()?;
            return Ok(Term { loss: nothing, hard: 0.0, floor: 0.0, chance: 0.0, accuracy: 0.0 });
        }
        let coefficients = |values: &[f64]| -> Result<Tensor> {
            Tensor::from_vec(values.to_vec(), (rows, classes), logits.device())?.to_dtype(logits.dtype())
        };
        let log_q = log_softmax(logits, D::Minus1)?;
        let weighted = |values: &[f64], log_q: &Tensor| -> Result<Tensor> {
            (log_q * coefficients(values)?)?.sum_all()?.neg()? / self.divisor
        };
        let hard = weighted(&self.hard, &log_q.detach())?.to_dtype(DType::F64)?.to_scalar()?;
        let chance = self.smoothed.iter().sum::<f64>() * (classes as f64).ln() / self.divisor;
        let z: Vec<Vec<f64>> = logits.detach().to_dtype(DType::F64)?.to_vec2()?;
        let counted: Vec<bool> =
            z.iter().zip(&self.right).filter_map(|(z, right)| Some(best(z, right.as_ref()?))).collect();
        let accuracy = counted.iter().filter(|r| **r).count() as f64 / counted.len().max(1) as f64;
        Ok(Term { loss: weighted(&self.smoothed, &log_q)?, hard, floor: self.floor(classes), chance, accuracy })
    }

    /// What the loss is where each row's q is as the targets want it: Σ a ln(Σa / a).
    fn floor(&self, classes: usize) -> f64 {
        let of_row = |row: &[f64]| {
            let all: f64 = row.iter().sum();
            row.iter().filter(|a| **a > 0.0).map(|a| a * (all / a).ln()).sum::<f64>()
        };
        self.smoothed.chunks_exact(classes).map(of_row).sum::<f64>() / self.divisor
    }
}

/// Whether the one highest logit is of a right class.
fn best(z: &[f64], right: &[bool]) -> bool {
    let highest = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    z.iter().zip(right).all(|(z, right)| *z < highest || *right)
}
