//! All figures of a model in training: retrieval, the objective's own loss, zero-shot classification.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::directions::{directions, logits};
use super::encoded::EncodedSplit;
use super::figure::Figure;
use super::objective::{ObjectiveFigures, RowFeatures, RowObjective};
use super::pairs::DistinctImages;
use super::pictures::Pictures;
use super::retrieval::{RetrievalOptions, RetrievalReport, retrieval_figures};
use super::zero_shot::{LabelledPrompts, Scores, scores};
use crate::data::Row;
use crate::loss::PromptFeatures;
use crate::metrics::Metric;
use crate::session::Encoder;

/// Figures of a validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Of images and reports.
    #[serde(flatten)]
    pub retrieval: RetrievalReport,
    /// The objective's own loss; absent where no row has the labels that it asks for.
    #[serde(default)]
    pub objective: Option<ObjectiveFigures>,
    /// Of images against the prompts; absent without prompts, or where no row has a label.
    #[serde(default)]
    pub zero_shot: Option<ZeroShotFigures>,
}

/// Zero-shot classification without intervals and temperatures, which `reportclip zero-shot` has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotFigures {
    /// Images with a label that counts.
    pub images: usize,
    /// Overall figures by name.
    pub figures: BTreeMap<String, ZeroShotFigure>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotFigure {
    /// `None` where it does not exist, such as an AUROC without positives.
    pub value: Option<f64>,
    /// What knowing nothing gives.
    pub chance: Option<f64>,
}

impl ZeroShotFigures {
    fn of(scores: &Scores) -> Self {
        let known = |value: f64| Some(value).filter(|v| v.is_finite());
        let figure = |f: Figure| (f.name, ZeroShotFigure { value: known(f.value), chance: f.chance.and_then(known) });
        Self { images: scores.labelled().len(), figures: scores.unfitted().into_iter().map(figure).collect() }
    }
}

impl Validation {
    /// The figure that validations are compared by; NaN where it does not exist.
    pub fn value(&self, metric: Metric) -> f64 {
        match metric {
            Metric::MeanRecall => self.retrieval.mean_recall,
            Metric::Loss => self.objective.map_or(f64::NAN, |o| o.loss),
            Metric::Auroc => self.zero_shot_value("auroc_macro"),
            Metric::BalancedAccuracy => self.zero_shot_value("balanced_accuracy"),
        }
    }

    /// Name, value and chance level of the zero-shot figures that people are shown.
    pub fn zero_shot_shown(&self) -> impl Iterator<Item = (&'static str, f64, f64)> {
        let shown = |(name, key): (&'static str, &str)| {
            let figure = self.zero_shot.as_ref()?.figures.get(key)?;
            Some((name, figure.value?, figure.chance?))
        };
        [("AUROC", "auroc_macro"), ("balanced accuracy", "balanced_accuracy")].into_iter().filter_map(shown)
    }

    fn zero_shot_value(&self, name: &str) -> f64 {
        let figure = self.zero_shot.as_ref().and_then(|zero_shot| zero_shot.figures.get(name));
        figure.and_then(|figure| figure.value).unwrap_or(f64::NAN)
    }
}

/// What a validation is to tell.
#[derive(Clone, Copy, Debug)]
pub struct ValidationOptions<'a> {
    /// What is trained; `None` where the rows lack what it asks for.
    pub objective: Option<RowObjective<'a>>,
    /// What images are classified by, if at all.
    pub prompts: Option<LabelledPrompts<'a>>,
    /// How retrieval is judged.
    pub retrieval: RetrievalOptions,
    /// Examples that are kept to be looked at.
    pub gallery: usize,
}

/// Encodes the distinct images and reports of `rows`, and the prompts, and computes all figures; with what is kept to
/// be looked at.
///
/// # Errors
/// No rows; [`crate::session::UnreadableImage`].
pub fn validate(encoder: &Encoder, rows: &[Row], options: &ValidationOptions) -> Result<(Validation, Pictures)> {
    let split = EncodedSplit::new(encoder, rows)?;
    let sentences = options.prompts.map(|p| encoder.texts(&p.prompts.sentences().0)).transpose()?;
    let scale = encoder.model.scale()?.to_device(&Device::Cpu)?;
    let bias = encoder.model.logit_bias().map(|bias| bias.tensor().to_device(&Device::Cpu)).transpose()?;
    let counts = options.prompts.map(|p| p.prompts.sentences().1).unwrap_or_default();
    let prompts = sentences.as_ref().map(|sentences| PromptFeatures { sentences, counts: &counts });
    encoder.world.from_first(|| {
        let retrieval = retrieval_figures(&split, &options.retrieval)?;
        let objective = options.objective.map(|objective| {
            let (images, texts) = split.of_rows()?;
            let features = RowFeatures { images, texts, scale, bias, prompts };
            objective.figures(&features, options.retrieval.loss_batch_size)
        });
        let zero_shot = options.prompts.zip(prompts).map(|(labelled, features)| {
            let logits = logits(&split.images, &directions(features)?, split.scale)?;
            let scores = scores(DistinctImages::of(rows), rows, logits, labelled, 0);
            anyhow::Ok(ZeroShotFigures::of(&scores))
        });
        let validation = Validation { retrieval, objective: objective.transpose()?, zero_shot: zero_shot.transpose()? };
        Ok((validation, Pictures::draw(&split, options.gallery)?))
    })
}
