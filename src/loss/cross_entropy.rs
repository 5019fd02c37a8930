//! `torch.nn.functional.cross_entropy` with everything it has.

use candle_core::{D, Result, Tensor, bail};
use candle_nn::ops::log_softmax;

/// What each row should be.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a> {
    /// Class indices, (batch); an index equal to `ignore_index` takes no part.
    Indices(&'a [i64]),
    /// Probabilities, (batch, classes).
    Probabilities(&'a Tensor),
}

/// How the per-sample losses are put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduction {
    /// Mean; over class indices weighted by the target's class weight, as PyTorch does.
    #[default]
    Mean,
    /// Sum.
    Sum,
    /// One loss a row, (batch).
    None,
}

/// The options of [`cross_entropy`]; the default is PyTorch's.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Weight of each class, (classes).
    pub weight: Option<Vec<f64>>,
    /// Index targets equal to this take no part.
    pub ignore_index: i64,
    /// How rows are put together.
    pub reduction: Reduction,
    /// ε: the target gets `1 - ε + ε/K`, each other class `ε/K`.
    pub label_smoothing: f64,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: None, ignore_index: -100, reduction: Reduction::Mean, label_smoothing: 0.0 }
    }
}

/// Cross-entropy of `logits` (batch, classes) against `targets`, differentiable in the logits. A scalar, or (batch)
/// with [`Reduction::None`]. The convention is PyTorch's: ε/K everywhere, also on the target.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use reportclip::loss::{CrossEntropy, Targets, cross_entropy};
///
/// let logits = Tensor::new(&[[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]], &Device::Cpu)?;
/// let options = CrossEntropy { label_smoothing: 0.1, ..CrossEntropy::default() };
/// let loss = cross_entropy(&logits, Targets::Indices(&[0, 1]), &options)?.to_scalar::<f64>()?;
/// assert!((loss - 0.5966686807).abs() < 1e-9);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// Shapes that do not fit, a target outside 0..classes, a smoothing outside 0..=1.
pub fn cross_entropy(logits: &Tensor, targets: Targets, options: &CrossEntropy) -> Result<Tensor> {
    let (batch, classes) = logits.dims2()?;
    let eps = options.label_smoothing;
    if !(0.0..=1.0).contains(&eps) {
        bail!("label_smoothing is {eps}, allowed is 0.0 to 1.0");
    }
    if let Some(w) = &options.weight
        && w.len() != classes
    {
        bail!("weight has {} numbers for {classes} classes", w.len());
    }
    let log_q = log_softmax(logits, D::Minus1)?;
    let weight = options.weight.clone().unwrap_or_else(|| vec![1.0; classes]);
    let row_weight = Tensor::from_vec(weight.clone(), classes, logits.device())?.to_dtype(logits.dtype())?;
    match targets {
        Targets::Probabilities(p) => {
            if p.dims() != logits.dims() {
                bail!("probability targets have shape {:?}, logits {:?}", p.dims(), logits.dims());
            }
            let p = ((p.to_dtype(logits.dtype())? * (1.0 - eps))? + eps / classes as f64)?;
            let per_row = (log_q * p)?.broadcast_mul(&row_weight)?.sum(D::Minus1)?.neg()?;
            match options.reduction {
                Reduction::None => Ok(per_row),
                Reduction::Sum => per_row.sum_all(),
                Reduction::Mean => per_row.sum_all()? / batch as f64,
            }
        }
        Targets::Indices(y) => {
            if y.len() != batch {
                bail!("{} targets for {batch} rows", y.len());
            }
            let (hard, smooth, total_weight) = index_masks(y, &weight, options.ignore_index)?;
            // One coefficient for each (row, class): the whole loss is one weighted sum of log-probabilities.
            let coefficients: Vec<f64> =
                (0..batch * classes).map(|i| (1.0 - eps) * hard[i] + eps / classes as f64 * smooth[i]).collect();
            let coefficients =
                Tensor::from_vec(coefficients, (batch, classes), logits.device())?.to_dtype(logits.dtype())?;
            let per_row = (log_q * coefficients)?.sum(D::Minus1)?.neg()?;
            match options.reduction {
                Reduction::None => Ok(per_row),
                Reduction::Sum => per_row.sum_all(),
                Reduction::Mean => per_row.sum_all()? / total_weight,
            }
        }
    }
}

/// For index targets: `w[y]` at the target and 0 elsewhere; `w[k]` everywhere; the sum of `w[y]`. Ignored rows are 0.
pub(super) fn index_masks(y: &[i64], weight: &[f64], ignore_index: i64) -> Result<(Vec<f64>, Vec<f64>, f64)> {
    let classes = weight.len();
    let mut hard = vec![0.0; y.len() * classes];
    let mut smooth = vec![0.0; y.len() * classes];
    let mut total = 0.0;
    for (row, &target) in y.iter().enumerate() {
        if target == ignore_index {
            continue;
        }
        let Some(target) = usize::try_from(target).ok().filter(|&t| t < classes) else {
            bail!("target {target} of row {row} is outside 0..{classes} and is not ignore_index ({ignore_index})");
        };
        hard[row * classes + target] = weight[target];
        smooth[row * classes..(row + 1) * classes].copy_from_slice(weight);
        total += weight[target];
    }
    Ok((hard, smooth, total))
}
