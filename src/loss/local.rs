//! `local`: sentences of reports against the patches of images. What each sentence attends to in an image is compared
//! with it; those of an image's own report shall be alike to what they find there.

use candle_core::{Result, Tensor, bail};

use super::candidates::Candidates;
use super::false_negatives::FalseNegatives;
use super::local_config::{LocalConfig, LocalForm};
use super::objective::{Direction, Inputs, LocalFeatures, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use super::soft_targets::SoftTargets;
use crate::metrics::Metric;
use crate::ops::{LocalSimilarity, local_similarity};

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "local",
    help: "cross-entropy of each sentence of the reports with what it finds among the patches of images",
    needs: Needs { reports: false, bias: false, places: true, targets: TargetKind::Pairs },
    takes: Takes {
        false_negatives: &[
            FalseNegatives::Keep,
            FalseNegatives::Remove,
            FalseNegatives::Soften,
            FalseNegatives::Positive,
        ],
        ..Takes::NOTHING
    },
    label_smoothing: 0.1,
    best_metric: (Metric::MeanRecall, "what is trained beside it finds each image's own report"),
    build: |s| {
        let (label_smoothing, direction, options) = (s.label_smoothing, s.direction, s.local);
        Box::new(LocalLoss { label_smoothing, direction, options, false_negatives: s.false_negatives })
    },
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
    /// What becomes of sentences of reports that are alike an image's own.
    pub false_negatives: FalseNegatives,
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
        let of_images = Answers::of(&local, logits.dim(1)?, self.false_negatives, &inputs.targets.likeness)?;
        let of_sentences = || of_images.turned().loss(&logits.t()?.contiguous()?, self);
        self.direction.mean(|| of_images.loss(&logits, self), of_sentences)
    }
}

/// What the candidates of each row are to it.
struct Answers {
    /// (rows · candidates) whether a sentence is of the image's report.
    own: Vec<bool>,
    /// (rows · candidates) 1 for these; of others how alike the most alike report that has the sentence is to the
    /// image's own. Empty where that does not count. In f32, as cosines of reports are: half the memory.
    alike: Vec<f32>,
    candidates: usize,
}

impl Answers {
    /// Of images and sentences, by how alike pairs are, (images · images).
    fn of(local: &LocalFeatures, sentences: usize, wanted: FalseNegatives, likeness: &[f64]) -> Result<Self> {
        let (of_pairs, images) = (local.of_pairs, local.of_pairs.len());
        let (mut own, mut alike) = (vec![false; images * sentences], Vec::new());
        if wanted != FalseNegatives::Keep {
            if likeness.len() != images * images {
                bail!("{} numbers of likeness for {images} pairs", likeness.len());
            }
            alike = vec![0f32; images * sentences];
            for (alike, likeness) in alike.chunks_exact_mut(sentences).zip(likeness.chunks_exact(images)) {
                for (of_pair, likeness) in of_pairs.iter().zip(likeness) {
                    of_pair.iter().for_each(|&s| alike[s as usize] = alike[s as usize].max(*likeness as f32));
                }
            }
        }
        for (image, of_pair) in of_pairs.iter().enumerate() {
            for at in of_pair.iter().map(|&sentence| image * sentences + sentence as usize) {
                own[at] = true;
                if let Some(alike) = alike.get_mut(at) {
                    *alike = 1.0;
                }
            }
        }
        Ok(Self { own, alike, candidates: sentences })
    }

    /// Of sentences and images.
    fn turned(&self) -> Self {
        let rows = self.own.len() / self.candidates;
        let places = || (0..self.own.len()).map(|i| i % rows * self.candidates + i / rows);
        let own = places().map(|at| self.own[at]).collect();
        let alike = if self.alike.is_empty() { Vec::new() } else { places().map(|at| self.alike[at]).collect() };
        Self { own, alike, candidates: rows }
    }

    /// How alike a row's candidates are to what is its own.
    fn alike(&self, row: usize) -> Vec<f64> {
        let of_row = row * self.candidates..(row + 1) * self.candidates;
        match self.alike.is_empty() {
            true => self.own[of_row].iter().map(|own| f64::from(u8::from(*own))).collect(),
            false => self.alike[of_row].iter().map(|alike| f64::from(*alike)).collect(),
        }
    }

    /// The loss of logits, (rows, candidates). A row without anything right does not count.
    fn loss(&self, logits: &Tensor, of: &LocalLoss) -> Result<Term> {
        if matches!(of.false_negatives, FalseNegatives::Keep | FalseNegatives::Positive) {
            return self.targets(of.label_smoothing).loss(logits);
        }
        let owns = |row: &[bool]| row.iter().any(|own| *own);
        let rows: Vec<u32> =
            (0u32..).zip(self.own.chunks_exact(self.candidates)).filter(|r| owns(r.1)).map(|r| r.0).collect();
        if rows.is_empty() {
            return self.targets(of.label_smoothing).loss(logits);
        }
        let logits = match rows.len() == logits.dim(0)? {
            true => logits.clone(),
            false => logits.index_select(&Tensor::new(rows.as_slice(), logits.device())?, 0)?,
        };
        let own = |row: u32| &self.own[row as usize * self.candidates..][..self.candidates];
        let hard = rows.iter().flat_map(|&row| {
            let count = own(row).iter().filter(|own| **own).count() as f64;
            own(row).iter().map(move |own| f64::from(u8::from(*own)) / count)
        });
        let weights = |&row: &u32| of.false_negatives.of_rows(&self.alike(row as usize), own(row), self.candidates);
        let weights = rows.iter().flat_map(weights).collect();
        let candidates = Candidates { weights, hard: hard.collect(), of_batch: self.candidates };
        candidates.loss(&logits, of.label_smoothing, None)
    }

    /// Each row's target as its candidates are alike to what is its own, smoothed.
    fn targets(&self, eps: f64) -> SoftTargets {
        let with_sum = |row: Vec<f64>| {
            let sum = row.iter().sum::<f64>();
            (row, sum)
        };
        let rows = || (0..self.own.len() / self.candidates).map(|row| with_sum(self.alike(row)));
        let share = |(row, sum): (Vec<f64>, f64), smoothing: f64| -> Vec<f64> {
            let everywhere = if sum > 0.0 { smoothing / self.candidates as f64 } else { 0.0 };
            let own = |alike: &f64| if *alike > 0.0 { (1.0 - smoothing) * alike / sum } else { 0.0 };
            row.iter().map(|alike| own(alike) + everywhere).collect()
        };
        SoftTargets {
            smoothed: rows().flat_map(|row| share(row, eps)).collect(),
            hard: rows().flat_map(|row| share(row, 0.0)).collect(),
            divisor: rows().filter(|(_, sum)| *sum > 0.0).count() as f64,
            right: rows()
                .map(|(row, sum)| (sum > 0.0).then(|| row.iter().map(|alike| *alike > 0.0).collect()))
                .collect(),
        }
    }
}
