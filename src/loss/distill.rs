//! `distill`: the similarities of a larger model as targets, as open_clip's distillation has them.

use candle_core::{Result, bail};

use super::candidates::similarities;
use super::objective::{Direction, Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::soft_targets::SoftTargets;
use crate::metrics::Metric;

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "distill",
    help: "cross-entropy over the batch against the similarities that loss.teacher gives",
    needs: Needs { reports: true, bias: false, places: false, targets: TargetKind::Teacher },
    takes: Takes::NOTHING,
    // Its targets are soft already.
    label_smoothing: 0.0,
    best_metric: (Metric::Loss, "it trains to be near another model, right or wrong"),
    build: |s| Box::new(DistillLoss { direction: s.direction }),
};

/// `-Σₖ pₖ log qₖ`, p the softmax of the teacher's logits, q of the model's, mean over rows and directions. Without
/// smoothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DistillLoss {
    /// Which directions count.
    pub direction: Direction,
}

impl Objective for DistillLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        let sims = similarities(&Inputs { opposed: None, ..*inputs })?;
        let (batch, logits) = (sims.dim(0)?, &inputs.targets.teacher);
        if logits.len() != batch * batch {
            bail!("{} logits of a teacher for {batch} pairs", logits.len());
        }
        let turned: Vec<f64> = (0..batch * batch).map(|i| logits[i % batch * batch + i / batch]).collect();
        let of_images = || soft(logits, batch).loss(&sims);
        let of_texts = || soft(&turned, batch).loss(&sims.t()?.contiguous()?);
        self.direction.mean(of_images, of_texts)
    }
}

/// The softmax of each row of logits as targets.
fn soft(logits: &[f64], batch: usize) -> SoftTargets {
    let (mut targets, mut right) = (Vec::with_capacity(logits.len()), Vec::with_capacity(batch));
    for row in logits.chunks_exact(batch) {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let all: f64 = row.iter().map(|z| (z - most).exp()).sum();
        targets.extend(row.iter().map(|z| (z - most).exp() / all));
        right.push(Some(row.iter().map(|z| *z == most).collect()));
    }
    SoftTargets { smoothed: targets.clone(), hard: targets, divisor: batch as f64, right }
}
