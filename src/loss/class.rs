//! Images against diagnosis prompts: one class a row (`class`), or findings that are there or not (`multi_label`).

use candle_core::{Result, Tensor, bail};

use super::soft_targets::SoftTargets;
use super::{Inputs, Part};
use crate::ops::reference::l2_normalize;

/// `F.cross_entropy(sim_i2t, classes, weight, ignore_index, label_smoothing)` of sim_i2t (batch, classes).
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// One a class, or none for 1 each.
    pub weights: Option<Vec<f64>>,
}

/// The same over two classes, "has it" and "has it not", for each finding; mean over all that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiLabelLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
}

/// scale · cosine of each image with each direction of the prompts: the mean of a class's sentences, each of length 1,
/// made so again. (batch, directions)
fn similarities(inputs: &Inputs) -> Result<Tensor> {
    let Some((sentences, counts)) = inputs.prompts else { bail!("this objective needs loss.prompts") };
    let all: usize = counts.iter().sum();
    if sentences.dim(0)? != all {
        bail!("{} prompt features for {all} sentences", sentences.dim(0)?);
    }
    let mut mean = vec![0f32; counts.len() * all];
    let mut start = 0;
    for (row, &count) in counts.iter().enumerate() {
        mean[row * all + start..row * all + start + count].fill(1.0 / count as f32);
        start += count;
    }
    let mean = Tensor::from_vec(mean, (counts.len(), all), sentences.device())?;
    let directions = l2_normalize(&mean.matmul(&l2_normalize(sentences)?)?)?;
    l2_normalize(inputs.image)?.matmul(&directions.t()?)?.broadcast_mul(inputs.scale)
}

impl ClassLoss {
    pub(super) fn forward(&self, inputs: &Inputs) -> Result<Part> {
        let logits = similarities(inputs)?;
        let (batch, classes) = logits.dims2()?;
        let targets = &inputs.targets.classes;
        if targets.len() != batch {
            bail!("{} class targets for {batch} images", targets.len());
        }
        let weights = self.weights.clone().unwrap_or_else(|| vec![1.0; classes]);
        if weights.len() != classes {
            bail!("loss.class_weights has {} numbers for {classes} classes", weights.len());
        }
        SoftTargets::of_classes(targets, &weights, self.label_smoothing)?.loss(&logits)
    }
}

impl MultiLabelLoss {
    pub(super) fn forward(&self, inputs: &Inputs) -> Result<Part> {
        let logits = similarities(inputs)?;
        let (batch, directions) = logits.dims2()?;
        let findings = directions / 2;
        // Positive and negative sentences of a finding stand side by side.
        let logits = logits.reshape((batch * findings, 2))?;
        let targets: Vec<Option<bool>> = inputs.targets.findings.iter().flatten().copied().collect();
        if targets.len() != batch * findings || directions % 2 != 0 {
            bail!("{} targets for {batch} images and {findings} findings", targets.len());
        }
        // "Has it" stands first.
        let classes: Vec<Option<usize>> = targets.iter().map(|t| t.map(|has| usize::from(!has))).collect();
        SoftTargets::of_classes(&classes, &[1.0; 2], self.label_smoothing)?.loss(&logits)
    }
}
