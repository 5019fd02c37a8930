//! `clip`: the contrastive loss over the batch diagonal, each image to its own report and back.

use candle_core::Result;

use super::candidates::{Candidates, Debias, similarities, with_opposites};
use super::false_negatives::FalseNegatives;
use super::objective::{Direction, Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::smoothing;
use crate::metrics::Metric;
use crate::ops::{Contrastive, contrastive};

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "clip",
    help: "symmetric cross-entropy over the batch",
    needs: Needs { reports: true, bias: false, places: false, targets: TargetKind::Pairs },
    takes: Takes {
        opposites: true,
        false_negatives: &[FalseNegatives::Keep, FalseNegatives::Remove, FalseNegatives::Soften],
        debias: true,
    },
    label_smoothing: 0.1,
    best_metric: (Metric::MeanRecall, "it trains to find each image's own report"),
    build: |s| {
        let (false_negatives, debias) = (s.false_negatives, s.debias);
        Box::new(ClipLoss { false_negatives, debias, ..ClipLoss::plain(s.label_smoothing, s.direction) })
    },
};

/// `(CE(sim_i2t) + CE(sim_t2i)) / 2` CLIP's objective, with label smoothing as in BLIP-2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
    /// What becomes of rows that are alike.
    pub false_negatives: FalseNegatives,
    /// The share τ⁺ of negatives that are taken to be positives (Chuang et al. 2020, arXiv 2007.00224); 0 = none.
    pub debias: f64,
}

impl ClipLoss {
    /// Every other row of the batch is a negative.
    pub fn plain(label_smoothing: f64, direction: Direction) -> Self {
        Self { label_smoothing, direction, false_negatives: FalseNegatives::Keep, debias: 0.0 }
    }

    /// The loss where not all candidates count alike.
    fn of_candidates(&self, inputs: &Inputs) -> Result<Term> {
        let sims = similarities(inputs)?;
        let batch = sims.dim(0)?;
        let weights = self.false_negatives.weights(&inputs.targets.likeness, batch)?;
        let own: Vec<f64> = (0..batch * batch).map(|i| f64::from(u8::from(i / batch == i % batch))).collect();
        let debias = (self.debias > 0.0).then_some(Debias { share: self.debias, scale: inputs.scale });
        let of_images = || {
            let weights = with_opposites(&weights, inputs, 1.0);
            let candidates = Candidates { weights, hard: with_opposites(&own, inputs, 0.0), of_batch: batch };
            candidates.loss(&sims, self.label_smoothing, debias)
        };
        // Likeness is symmetric, so one table serves both directions.
        let of_texts = || {
            let candidates = Candidates { weights: weights.clone(), hard: own.clone(), of_batch: batch };
            candidates.loss(&sims.narrow(1, 0, batch)?.t()?.contiguous()?, self.label_smoothing, debias)
        };
        self.direction.mean(of_images, of_texts)
    }
}

impl Objective for ClipLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        if inputs.opposed.is_some() || self.false_negatives != FalseNegatives::Keep || self.debias > 0.0 {
            return self.of_candidates(inputs);
        }
        let options = Contrastive {
            label_smoothing: self.label_smoothing,
            image_to_text: self.direction != Direction::TextToImage,
            text_to_image: self.direction != Direction::ImageToText,
        };
        let output = contrastive(inputs.image, inputs.reports()?, inputs.scale, &options)?;
        let batch = inputs.image.dim(0)?;
        Ok(Term {
            loss: output.loss,
            hard: output.loss_hard,
            floor: smoothing::floor(batch, self.label_smoothing),
            chance: smoothing::chance(batch),
            accuracy: output.accuracy,
        })
    }
}
