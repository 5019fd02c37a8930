//! `local`: sentences of reports against the patches of images. What each sentence attends to in an image is compared
//! with it; those of an image's own report shall be alike to what they find there.

use candle_core::{Result, bail};

use super::local_config::{LocalConfig, LocalForm};
use super::objective::{Direction, Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::soft_targets::SoftTargets;
use crate::metrics::Metric;
use crate::ops::{LocalSimilarity, local_similarity};

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "local",
    help: "cross-entropy of each sentence of the reports with what it finds among the patches of images",
    needs: Needs { reports: false, bias: false, places: true, targets: TargetKind::Pairs },
    takes: Takes::NOTHING,
    label_smoothing: 0.1,
    best_metric: (Metric::MeanRecall, "what is trained beside it finds each image's own report"),
    build: |s| Box::new(LocalLoss { label_smoothing: s.label_smoothing, direction: s.direction, options: s.local }),
};

/// `(CE over the sentences of the batch + CE over its images) / 2` of similarities over the temperature: an image's
/// positives are the sentences of its report, a sentence's are the images whose report has it; smoothed as everywhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalLoss {
    /// ε of the smoothed targets.
    pub label_smoothing: f64,
    /// Which directions count.
    pub direction: Direction,
    /// Form and temperatures.
    pub options: LocalConfig,
}

impl Objective for LocalLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        let Some(local) = inputs.local else { bail!("this objective needs patches and sentences") };
        let options = LocalSimilarity {
            temperature: self.options.attention_temperature,
            unit_patches: self.options.form == LocalForm::Map,
        };
        let found = local_similarity(local.patches, local.sentences, local.segments, &options)?;
        let logits = (found / self.options.temperature)?; // (images, sentences)
        let (images, sentences) = logits.dims2()?;
        let mut has = vec![false; images * sentences];
        for (image, own) in local.of_pairs.iter().enumerate() {
            own.iter().for_each(|&sentence| has[image * sentences + sentence as usize] = true);
        }
        let across: Vec<bool> = (0..has.len()).map(|i| has[i % images * sentences + i / images]).collect();
        let of_images = || targets(&has, sentences, self.label_smoothing).loss(&logits);
        let of_sentences = || targets(&across, images, self.label_smoothing).loss(&logits.t()?.contiguous()?);
        self.direction.mean(of_images, of_sentences)
    }
}

/// Each row's positives alike, smoothed; a row without any does not count.
fn targets(positive: &[bool], classes: usize, eps: f64) -> SoftTargets {
    let rows = || positive.chunks_exact(classes).map(|row| (row, row.iter().filter(|p| **p).count()));
    let share = |(row, count): (&[bool], usize), smoothing: f64| -> Vec<f64> {
        let everywhere = if count > 0 { smoothing / classes as f64 } else { 0.0 };
        let own = (1.0 - smoothing) / count.max(1) as f64;
        row.iter().map(|&positive| if positive { own + everywhere } else { everywhere }).collect()
    };
    SoftTargets {
        smoothed: rows().flat_map(|row| share(row, eps)).collect(),
        hard: rows().flat_map(|row| share(row, 0.0)).collect(),
        divisor: rows().filter(|(_, count)| *count > 0).count() as f64,
        right: rows().map(|(row, count)| (count > 0).then(|| row.to_vec())).collect(),
    }
}
