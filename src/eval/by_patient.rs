//! Figures as sums by patient, so that runs can be compared over seeds and patients together. Patients are numbers in
//! the order of their first rows: nothing names them.

use std::collections::BTreeMap;

use anyhow::Result;

use super::calibration::Prediction;
use super::encoded::EncodedSplit;
use super::retrieval::{RetrievalOptions, matched, outcomes};
use super::zero_shot::Scores;
use crate::metrics::Query;
use crate::metrics::calibration::{brier, negative_log_likelihood};
use crate::metrics::hierarchical::PatientSums;
use crate::metrics::retrieval::RECALL_AT;

/// By the name that a sweep has for the figure.
pub type ByPatient = BTreeMap<String, PatientSums>;

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

/// Recall and NLL of matching.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn of_retrieval(split: &EncodedSplit, options: &RetrievalOptions) -> Result<ByPatient> {
    let (images, texts, pairs) = (&split.images, &split.texts, &split.pairs);
    let directions = [
        (outcomes(images, texts, &pairs.texts_of_image)?, &pairs.images.groups),
        (outcomes(texts, images, &pairs.images_of_text)?, &pairs.text_groups),
    ];
    let recall = |at: &[usize]| -> PatientSums {
        let found = |q: &Query| at.iter().filter(|k| q.rank <= **k).count() as f64 / at.len() as f64;
        directions.iter().map(|(of, groups)| sums(of.iter().map(found).zip(groups.iter().copied()))).collect()
    };
    let matches = matched(split, options)?.predictions;
    let matching = |scaled: bool| vec![sums(matches.iter().map(|p| (nll(p, scaled), p.group)))];
    let named = [
        ("recall@1", recall(&RECALL_AT[..1])),
        ("mean_recall", recall(&RECALL_AT)),
        ("match_nll", matching(false)),
        ("match_nll_scaled", matching(true)),
    ];
    Ok(named.map(|(name, sums)| (name.to_string(), sums)).into())
}

impl Scores {
    /// Accuracy, NLL and Brier score; temperatures must be fitted.
    pub(super) fn by_patient(&self) -> ByPatient {
        let all = self.predictions();
        let of = |value: &dyn Fn(&Prediction) -> f64| vec![sums(all.iter().map(|p| (value(p), p.group)))];
        let mut named = vec![
            ("class_nll", of(&|p| nll(p, false))),
            ("class_nll_scaled", of(&|p| nll(p, true))),
            ("class_brier", of(&|p| brier(&p.probabilities(false), p.target))),
            ("class_brier_scaled", of(&|p| brier(&p.probabilities(true), p.target))),
        ];
        if !self.multi_label {
            named.push(("class_accuracy", of(&|p| f64::from(u8::from(p.predicted() == p.target)))));
        }
        named.into_iter().map(|(name, sums)| (name.to_string(), sums)).collect()
    }
}
