//! `multi_label`: images against the findings of a prompt file, of which one may have several.

use candle_core::{Result, bail};

use super::objective::{Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::prompt_similarity::similarities;
use super::soft_targets::SoftTargets;
use crate::metrics::Metric;

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "multi_label",
    help: "images against the findings of loss.prompts, of which one may have several",
    needs: Needs { reports: false, bias: false, places: false, targets: TargetKind::Findings },
    takes: Takes::NOTHING,
    label_smoothing: 0.1,
    best_metric: (Metric::Auroc, "it trains to tell images with a finding from those without"),
    build: |s| Box::new(MultiLabelLoss { label_smoothing: s.label_smoothing }),
};

/// Cross-entropy over two classes, "has it" and "has it not", for each finding; mean over all that is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MultiLabelLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
}

impl Objective for MultiLabelLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
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
