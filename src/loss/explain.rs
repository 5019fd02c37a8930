//! The four steps of a smoothed cross-entropy, in f64, for `reportclip loss explain`.

use candle_core::{D, Device, Result, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::cross_entropy::{CrossEntropy, Reduction, Targets, cross_entropy};
use super::smoothing;

/// What to explain. Missing fields have PyTorch's defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// (batch, classes)
    pub logits: Vec<Vec<f64>>,
    /// Class indices, (batch), or probabilities, (batch, classes).
    pub targets: InputTargets,
    /// ε.
    #[serde(default)]
    pub label_smoothing: Option<f64>,
    /// (classes)
    #[serde(default)]
    pub class_weights: Option<Vec<f64>>,
    /// Index targets equal to this take no part; −100 when absent.
    #[serde(default)]
    pub ignore_index: Option<i64>,
}

/// Both forms of target.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum InputTargets {
    /// Class indices.
    Indices(Vec<i64>),
    /// One distribution a row.
    Probabilities(Vec<Vec<f64>>),
}

impl Input {
    /// The worked example of a widely read article, which prints 0.4122 for it; PyTorch gives 0.5967.
    pub fn example() -> Self {
        Self {
            logits: vec![vec![2.0, 1.0, 0.1], vec![0.5, 1.5, 0.8]],
            targets: InputTargets::Indices(vec![0, 1]),
            label_smoothing: None,
            class_weights: None,
            ignore_index: None,
        }
    }
}

/// Every step, with the numbers that put the loss in proportion.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// softmax(logits), (batch, classes)
    pub probabilities: Vec<Vec<f64>>,
    /// (batch, classes); rows of ignored targets are all 0.
    pub smoothed_targets: Vec<Vec<f64>>,
    /// (batch)
    pub per_sample: Vec<f64>,
    /// The mean, as PyTorch weights it.
    pub loss: f64,
    /// d loss / d logits, (batch, classes)
    pub grad: Vec<Vec<f64>>,
    /// The same loss at ε = 0.
    pub loss_hard: f64,
    /// Lowest value that index targets allow at this ε, without class weights.
    pub floor: f64,
    /// ln K.
    pub chance: f64,
    /// ε as used.
    pub label_smoothing: f64,
}

/// Computes all steps of `input` with smoothing `eps`.
///
/// ```
/// use reportclip::loss::explain::{Input, explain};
///
/// let explanation = explain(&Input::example(), 0.1)?;
/// assert!((explanation.smoothed_targets[0][0] - 0.9333).abs() < 5e-5);
/// assert!((explanation.per_sample[1] - 0.6796).abs() < 5e-5);
/// assert!((explanation.loss - 0.5967).abs() < 5e-5);
/// # Ok::<(), candle_core::Error>(())
/// ```
///
/// # Errors
/// A matrix that is empty or ragged, targets that do not fit it.
pub fn explain(input: &Input, eps: f64) -> Result<Explanation> {
    let classes = input.logits.first().map_or(0, Vec::len);
    if classes == 0 || input.logits.iter().any(|row| row.len() != classes) {
        let lengths: Vec<usize> = input.logits.iter().map(Vec::len).collect();
        candle_core::bail!("logits must be a matrix with rows of one length, the rows seen have {lengths:?} numbers");
    }
    if let Some(v) = input.logits.iter().flatten().find(|v| !v.is_finite()) {
        candle_core::bail!("logits must be finite numbers, one is {v}");
    }
    let logits = Var::from_tensor(&matrix(&input.logits)?)?;
    let probability_rows = match &input.targets {
        InputTargets::Probabilities(rows) => Some(matrix(rows)?),
        InputTargets::Indices(_) => None,
    };
    let targets = match (&input.targets, &probability_rows) {
        (InputTargets::Indices(y), _) => Targets::Indices(y),
        (_, Some(rows)) => Targets::Probabilities(rows),
        (_, None) => unreachable!("probability targets were just made"),
    };
    let options = |label_smoothing, reduction| CrossEntropy {
        weight: input.class_weights.clone(),
        ignore_index: input.ignore_index.unwrap_or(-100),
        reduction,
        label_smoothing,
    };
    let loss = cross_entropy(&logits, targets, &options(eps, Reduction::Mean))?;
    let grads = loss.backward()?;
    let grad = match grads.get(&logits) {
        Some(grad) => grad.to_vec2()?,
        None => vec![vec![0.0; classes]; input.logits.len()],
    };
    Ok(Explanation {
        probabilities: candle_nn::ops::softmax(&logits.detach(), D::Minus1)?.to_vec2()?,
        smoothed_targets: smoothed_targets(input, classes, eps),
        per_sample: cross_entropy(&logits, targets, &options(eps, Reduction::None))?.to_vec1()?,
        loss: loss.to_scalar()?,
        grad,
        loss_hard: cross_entropy(&logits, targets, &options(0.0, Reduction::Mean))?.to_scalar()?,
        floor: smoothing::floor(classes, eps),
        chance: smoothing::chance(classes),
        label_smoothing: eps,
    })
}

fn matrix(rows: &[Vec<f64>]) -> Result<Tensor> {
    let classes = rows.first().map_or(0, Vec::len);
    if rows.iter().any(|row| row.len() != classes) {
        candle_core::bail!("the rows of a matrix must have one length");
    }
    Tensor::from_vec(rows.concat(), (rows.len(), classes), &Device::Cpu)
}

fn smoothed_targets(input: &Input, classes: usize, eps: f64) -> Vec<Vec<f64>> {
    let uniform = eps / classes as f64;
    match &input.targets {
        InputTargets::Probabilities(rows) => {
            rows.iter().map(|row| row.iter().map(|p| p * (1.0 - eps) + uniform).collect()).collect()
        }
        InputTargets::Indices(y) => y
            .iter()
            .map(|&target| {
                let ignored = target == input.ignore_index.unwrap_or(-100);
                let share = |k: usize| if k as i64 == target { 1.0 - eps + uniform } else { uniform };
                (0..classes).map(|k| if ignored { 0.0 } else { share(k) }).collect()
            })
            .collect(),
    }
}
