//! `clip`: the contrastive loss over the batch diagonal, each image to its own report and back.

use candle_core::Result;

use super::objective::{Direction, Inputs, Needs, Objective, ObjectiveKind, TargetKind, Term};
use super::smoothing;
use crate::metrics::Metric;
use crate::ops::{Contrastive, contrastive};

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "clip",
    help: "symmetric cross-entropy over the batch",
    needs: Needs { reports: true, bias: false, places: false, targets: TargetKind::Pairs },
    label_smoothing: 0.1,
    best_metric: (Metric::MeanRecall, "it trains to find each image's own report"),
    build: |s| Box::new(ClipLoss { label_smoothing: s.label_smoothing, direction: s.direction }),
};

/// `(CE(sim_i2t) + CE(sim_t2i)) / 2` CLIP's objective, with label smoothing as in BLIP-2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
}

impl Objective for ClipLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
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
