//! A split through a model: all figures of retrieval.

use std::io::Write;

use anyhow::Result;

use super::bag_weights::write_bag_weights;
use super::by_patient::{ByPatient, of_retrieval};
use super::conformal::retrieval_sets;
use super::encoded::EncodedSplit;
use super::figure::Figure;
use super::grounding::{GroundingReport, check_places, grounding};
use super::negation::{NegationReport, Preferences};
use super::paired::retrieval_difference;
use super::patch_maps::MapKind;
use super::probe::{ProbeReport, linear_probe};
use super::retrieval::{RetrievalOptions, RetrievalReport, figures_with, matched, retrieval_figures};
use super::sets::ConformalReport;
use super::subgroups::{RareValues, check_names, check_values};
use super::top_k::{TopKFigures, top_k};
use crate::data::leaks::{Side, refuse_shared};
use crate::data::{Described, ReportPolicy, Row};
use crate::session::{Encoder, RowSource, Session};

/// Encodes the distinct images and reports of `rows` and computes all figures.
///
/// # Errors
/// No rows; [`crate::session::UnreadableImage`].
pub fn evaluate(encoder: &Encoder, rows: &[Row], options: &RetrievalOptions) -> Result<RetrievalReport> {
    let split = EncodedSplit::new(encoder, rows)?;
    encoder.world.from_first(|| retrieval_figures(&split, options))
}

/// What models are judged on.
pub struct Evaluation {
    rows: Vec<Row>,
    /// Rows to fit a linear probe on.
    probe: Option<Vec<Row>>,
    /// Items that are encoded at once; does not change the figures.
    batch_size: usize,
    options: RetrievalOptions,
    /// Also conformal sets that may leave out this share, by the values of these columns too.
    conformal: Option<(f64, Vec<String>, RareValues)>,
    /// Also sums by patient.
    by_patient: bool,
    /// Also whether true sentences are preferred to their opposites.
    negation: bool,
}

/// What a model came to.
pub struct EvaluationReport {
    /// Retrieval, calibration, loss.
    pub retrieval: RetrievalReport,
    /// Those figures minus another model's on the same rows.
    pub difference: Option<Vec<Figure>>,
    /// What a linear probe makes of the labels.
    pub probe: Option<ProbeReport>,
    /// Whether the first k hold a right one as often as their probabilities say.
    pub top_k: Vec<TopKFigures>,
    /// Sets of reports and of images that hold a right one.
    pub conformal: Option<ConformalReport>,
    /// Figures as sums by patient.
    pub by_patient: Option<ByPatient>,
    /// Whether true sentences are preferred to their opposites.
    pub negation: Option<NegationReport>,
}

impl Evaluation {
    /// On the rows that `source` names, of each report what `policy` reads.
    ///
    /// # Errors
    /// A manifest that cannot be read, a row that cannot be used, no row left.
    pub fn on(source: &RowSource, policy: &ReportPolicy, batch_size: usize, options: RetrievalOptions) -> Result<Self> {
        let rows = source.rows(policy)?;
        Ok(Self { rows, probe: None, batch_size, options, conformal: None, by_patient: false, negation: false })
    }

    /// Also makes sets that leave out what is right of a query in a share of `alpha` at most, and tells of them by the
    /// values of `subgroups`, which are the first extra columns of `source`, that of the rows.
    ///
    /// # Errors
    /// A column without a value, or one whose values name patients or tell what is theirs.
    pub fn with_conformal(self, alpha: f64, subgroups: Vec<String>, source: &RowSource) -> Result<Self> {
        check_names(&subgroups, &source.columns)?;
        let rare = check_values(&subgroups, &source.columns, &self.rows, 0)?;
        Ok(Self { conformal: Some((alpha, subgroups, rare)), ..self })
    }

    /// Makes sure that places on the images of the rows lie on them, before a model is asked. Reads these images.
    ///
    /// # Errors
    /// One does not.
    pub fn check_places(&self, places: &[Described]) -> Result<()> {
        check_places(&self.rows, places)
    }

    /// How well the model's maps find places on the images of the rows; `map`: what they show, where that is asked for.
    ///
    /// # Errors
    /// No place on these images; an image that cannot be read; a tower that has no such map.
    pub fn grounding(&self, model: &Session, places: &[Described], map: Option<MapKind>) -> Result<GroundingReport> {
        grounding(model, &self.rows, places, map, &self.options)
    }

    /// Also gives figures as sums by patient.
    pub fn with_patients(self) -> Self {
        Self { by_patient: true, ..self }
    }

    /// Also tells whether true sentences are preferred to their opposites.
    pub fn with_negation(self) -> Self {
        Self { negation: true, ..self }
    }

    /// Also fits a linear probe on the rows of `fit`, to be judged on this one's.
    ///
    /// # Errors
    /// As [`Self::on`]; somebody who stands on both sides.
    pub fn with_probe(self, fit: &RowSource, policy: &ReportPolicy) -> Result<Self> {
        let rows = fit.rows(policy)?;
        let name = format!("split {}", fit.split.as_deref().unwrap_or_default());
        let fitted_on = Side { rows: &rows, name: &name };
        refuse_shared(&fit.name(), fitted_on, Side { rows: &self.rows, name: "the split that is judged" })?;
        Ok(Self { probe: Some(rows), ..self })
    }

    /// Figures of `model`, and how far they are from those of `other`. Each encodes each image once. Warns of reports
    /// that `model` does not read to their ends.
    ///
    /// # Errors
    /// No rows; an image that cannot be read.
    pub fn judge(&self, model: &Session, other: Option<&Session>) -> Result<EvaluationReport> {
        let encoder = model.encoder(self.batch_size)?;
        let split = EncodedSplit::telling(&encoder, &self.rows)?;
        let matched = matched(&split, &self.options)?;
        let retrieval = figures_with(&split, &matched, &self.options)?;
        let probe = self.probe.as_ref().map(|fit| linear_probe(&encoder, fit, &split)).transpose()?;
        let preferences = self.negation.then(|| Preferences::of(&encoder, &split, self.options.seed)).transpose()?;
        let negation = preferences.as_ref().map(|preferences| preferences.report(&self.options));
        let difference = |other: &Session| {
            let encoder = other.encoder(self.batch_size)?;
            let theirs = EncodedSplit::new(&encoder, &self.rows)?;
            let mut figures = retrieval_difference(&split, &theirs, &self.options)?;
            if let Some(ours) = &preferences {
                figures
                    .extend(ours.difference(&Preferences::of(&encoder, &theirs, self.options.seed)?, &self.options)?);
            }
            anyhow::Ok(figures)
        };
        let resamples = (self.options.bootstrap, self.options.seed);
        let sets = |(alpha, columns, rare): &(f64, Vec<String>, RareValues)| {
            retrieval_sets(&split, *alpha, (columns, rare), resamples)
        };
        let conformal = self.conformal.as_ref().map(sets).transpose()?;
        let top_k = top_k(&split, &matched.predictions, &self.options)?;
        let by_patient = self.by_patient.then(|| of_retrieval(&split, &matched)).transpose()?;
        let difference = other.map(difference).transpose()?;
        Ok(EvaluationReport { retrieval, difference, probe, top_k, conformal, by_patient, negation })
    }

    /// Writes JSON lines to `to`: of each row the images of its bag that are read, with what they are to its report.
    /// Reads them anew.
    ///
    /// # Errors
    /// An image that cannot be read, or `to` cannot be written.
    pub fn bag_weights(&self, model: &Session, to: &mut dyn Write) -> Result<()> {
        write_bag_weights(model, &self.rows, to)
    }

    /// Retrieval figures of mixtures of `tuned` with the model that it was made from, one for each of `shares` of
    /// `tuned` (WiSE-FT, arXiv 2109.01903).
    ///
    /// # Errors
    /// Models of two shapes; as [`evaluate`].
    pub fn judge_mixtures(&self, tuned: &Session, base: &Session, shares: &[f64]) -> Result<Vec<RetrievalReport>> {
        let of_share = |&share: &f64| {
            let mixed = tuned.mixed(base, share)?;
            evaluate(&mixed.encoder(self.batch_size)?, &self.rows, &self.options)
        };
        shares.iter().map(of_share).collect()
    }
}
