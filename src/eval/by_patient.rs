//! Figures by patient, so that runs can be compared over seeds and patients together, and what was answered, so that
//! it can be told how often runs agree. Patients are numbers in the order of their first rows: nothing names them.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::calibration::Prediction;
use super::encoded::EncodedSplit;
use super::retrieval::{Matched, outcomes};
use super::zero_shot::Scores;
use crate::metrics::Query;
use crate::metrics::calibration::{brier, negative_log_likelihood};
use crate::metrics::hierarchical::{PatientFigure, PatientRow};
use crate::metrics::retrieval::RECALL_AT;
use crate::metrics::selective::Sureness;

/// What a sweep compares runs by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ByPatient {
    /// By the name that a sweep has for the figure.
    pub figures: BTreeMap<String, PatientFigure>,
    /// What was answered to each question, in one order for all runs: `class` of each image, `report` of each image's
    /// batch.
    pub answers: BTreeMap<String, Vec<usize>>,
}

/// Sum and number of rows of each patient. (value, patient) of each row.
fn sums(rows: impl Iterator<Item = (f64, usize)>) -> Vec<(f64, f64)> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for (value, patient) in rows {
        if sums.len() <= patient {
            sums.resize(patient + 1, (0.0, 0.0));
        }
        sums[patient].0 += value;
        sums[patient].1 += 1.0;
    }
    sums
}

fn nll(p: &Prediction, scaled: bool) -> f64 {
    negative_log_likelihood(&p.logits, p.target, if scaled { p.temperature } else { 1.0 })
}

/// Each answer, with how sure it is of it.
fn by_sureness(predictions: &[&Prediction], sureness: impl Fn(&Prediction) -> f64) -> Vec<PatientRow> {
    predictions.iter().map(|p| (sureness(p), p.predicted() == p.target, p.group)).collect()
}

/// Each answer, with its probability.
fn by_probability(predictions: &[&Prediction], scaled: bool) -> Vec<PatientRow> {
    by_sureness(predictions, |p| p.probabilities(scaled)[p.predicted()])
}

/// What leaving out unsure predictions over more than two classes gives, with names' endings.
fn orders(predictions: &[&Prediction]) -> [(&'static str, PatientFigure); 5] {
    let normalised = by_sureness(predictions, |p| Sureness::NormalisedLogit.of(&p.logits));
    [
        ("aurc", PatientFigure::Aurc(by_probability(predictions, false))),
        ("aurc_scaled", PatientFigure::Aurc(by_probability(predictions, true))),
        ("aurc_normalised", PatientFigure::Aurc(normalised)),
        ("coverage_at_90", PatientFigure::CoverageAt90(by_probability(predictions, false))),
        ("coverage_at_90_scaled", PatientFigure::CoverageAt90(by_probability(predictions, true))),
    ]
}

/// Recall and matching, from these matches.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn of_retrieval(split: &EncodedSplit, matches: &Matched) -> Result<ByPatient> {
    let (images, texts, pairs) = (&split.images, &split.texts, &split.pairs);
    let directions = [
        (outcomes(images, texts, &pairs.texts_of_image)?, &pairs.images.groups),
        (outcomes(texts, images, &pairs.images_of_text)?, &pairs.text_groups),
    ];
    let recall = |at: &[usize]| {
        let found = |q: &Query| at.iter().filter(|k| q.rank <= **k).count() as f64 / at.len() as f64;
        let of_direction =
            |(of, groups): &(Vec<Query>, &Vec<usize>)| sums(of.iter().map(found).zip(groups.iter().copied()));
        PatientFigure::Mean(directions.iter().map(of_direction).collect())
    };
    let Matched { predictions: matches, to_text, .. } = matches;
    let all: Vec<&Prediction> = matches.iter().collect();
    let matching = |scaled: bool| PatientFigure::Mean(vec![sums(matches.iter().map(|p| (nll(p, scaled), p.group)))]);
    let named = [
        ("recall@1", recall(&RECALL_AT[..1])),
        ("mean_recall", recall(&RECALL_AT)),
        ("match_nll", matching(false)),
        ("match_nll_scaled", matching(true)),
        ("match_ece", PatientFigure::Ece(by_probability(&all, false))),
        ("match_ece_scaled", PatientFigure::Ece(by_probability(&all, true))),
    ];
    let mut figures: BTreeMap<String, PatientFigure> = named.map(|(name, of)| (name.to_string(), of)).into();
    // The manifest's order comes first, each pair once in each direction.
    let first: Vec<&Prediction> = matches[..2 * pairs.rows.len()].iter().collect();
    if first.iter().all(|p| p.logits.len() > 2) {
        figures.extend(orders(&first).map(|(name, of)| (format!("match_{name}"), of)));
    }
    let reports = first.iter().zip(to_text).filter(|(_, to_text)| **to_text).map(|(p, _)| p.predicted());
    Ok(ByPatient { figures, answers: [("report".to_string(), reports.collect())].into() })
}

impl Scores {
    /// Figures of classes; temperatures must be fitted.
    pub(super) fn by_patient(&self) -> ByPatient {
        let all = self.predictions();
        let mean = |value: &dyn Fn(&Prediction) -> f64| {
            PatientFigure::Mean(vec![sums(all.iter().map(|p| (value(p), p.group)))])
        };
        let ece = |scaled: bool| PatientFigure::Ece(by_probability(&all, scaled));
        let of_class = |class: usize| self.one_against_rest(class, None).rows();
        let mut named = vec![
            ("auroc_macro", PatientFigure::Auroc((0..self.names.len()).map(of_class).collect())),
            ("nll", mean(&|p| nll(p, false))),
            ("nll_scaled", mean(&|p| nll(p, true))),
            ("brier", mean(&|p| brier(&p.probabilities(false), p.target))),
            ("brier_scaled", mean(&|p| brier(&p.probabilities(true), p.target))),
            ("ece", ece(false)),
            ("ece_scaled", ece(true)),
        ];
        let mut answers = BTreeMap::new();
        if !self.multi_label {
            named.push(("accuracy", mean(&|p| f64::from(u8::from(p.predicted() == p.target)))));
            answers.insert("class".to_string(), all.iter().map(|p| p.predicted()).collect());
            if self.names.len() > 2 {
                named.extend(orders(&all));
            }
        }
        let figures = named.into_iter().map(|(name, of)| (format!("class_{name}"), of)).collect();
        ByPatient { figures, answers }
    }
}
