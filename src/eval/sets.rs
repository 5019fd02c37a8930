//! Conformal sets as they are stored and drawn, and what their figures are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::selective::Resamples;
use crate::metrics::bootstrap;
use crate::metrics::conformal::mean_over_patients;
use crate::seed::{Purpose, stream};

/// What sets came to. The promise is of a row of a patient to come who is like those that were calibrated on: patients
/// count once, whatever number of rows they have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConformalReport {
    /// The share that may be left out.
    pub alpha: f64,
    /// What sets were calibrated on.
    pub calibrated_on: String,
    /// Each way of making sets.
    pub methods: Vec<ConformalFigures>,
}

/// Sets made in one way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConformalFigures {
    /// lac, aps, raps, and lac_by_class, aps_by_class, raps_by_class; of findings risk_control; of retrieval
    /// image_to_text and text_to_image.
    pub method: String,
    /// coverage (chance: what was asked for), size, empty: means over patients with intervals over them. Of findings
    /// they are of images that have any, and coverage is the share of an image's own that its set holds.
    pub figures: Vec<Figure>,
    /// What is in a set: scores up to this, by risk control probabilities from this on; for the two halves of the
    /// patients, which are one where other patients were calibrated on, and one a class where classes have their own.
    /// `None`: everything.
    #[serde(default)]
    pub thresholds: Vec<[Option<f64>; 2]>,
    /// The set of each image; of retrieval none, which would be as many numbers as images times reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<GivenSet>,
    /// Classes or findings, with the coverage and the mean size of the rows that have it.
    pub by_class: Vec<SetsOfPart>,
    /// The same by values of the subgroup columns.
    pub by_subgroup: Vec<SetsOfPart>,
}

/// The set of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GivenSet {
    /// Line of the manifest.
    pub line: u64,
    /// Classes or findings.
    pub set: Vec<String>,
    /// Whether what is so, of findings all of it, is among them; nothing where that is not known.
    pub holds: Option<bool>,
}

/// Sets of a part of the rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetsOfPart {
    /// A class, or `column = value`.
    pub name: String,
    /// Rows of it.
    pub rows: usize,
    /// Coverage, patients counting once.
    pub coverage: f64,
    /// Size of sets, patients counting once.
    pub size: f64,
}

/// What the set of a row came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// 1 where it holds what is so, 0 where not; of findings the share that it holds.
    pub covered: f64,
    /// Members of its set.
    pub size: usize,
    /// Number of its patient.
    pub group: usize,
}

impl Held {
    fn means(rows: &[Self]) -> Vec<f64> {
        Self::each(|value| mean_over_patients(rows.iter().map(move |r| (value(r), r.group))))
    }

    /// `mean` of coverage, size and emptiness.
    fn each(mean: impl Fn(fn(&Self) -> f64) -> f64) -> Vec<f64> {
        vec![mean(|r| r.covered), mean(|r| r.size as f64), mean(|r| f64::from(u8::from(r.size == 0)))]
    }

    pub fn part(name: String, rows: &[Self]) -> SetsOfPart {
        let means = Self::means(rows);
        SetsOfPart { name, rows: rows.len(), coverage: means[0], size: means[1] }
    }
}

/// By the values of `columns`, of which each row has one a column.
pub(super) fn by_subgroup<'a>(
    columns: &[String],
    rows: impl Iterator<Item = (&'a [Option<String>], Held)>,
) -> Vec<SetsOfPart> {
    let mut parts: BTreeMap<(usize, &str), Vec<Held>> = BTreeMap::new();
    for (values, held) in rows {
        for (column, value) in values.iter().enumerate() {
            parts.entry((column, value.as_deref().unwrap_or("(blank)"))).or_default().push(held);
        }
    }
    let name = |column: usize, value: &str| format!("{} = {value}", columns[column]);
    parts.into_iter().map(|((column, value), rows)| Held::part(name(column, value), &rows)).collect()
}

/// Figures of sets, without parts.
pub(super) fn figures(method: &str, held: &[Held], alpha: f64, (resamples, seed): Resamples) -> ConformalFigures {
    let groups: Vec<usize> = held.iter().map(|h| h.group).collect();
    let rng = |i: u64| stream(seed, Purpose::Bootstrap, i);
    // A patient that is drawn twice counts twice: its rows keep the weight that they have.
    let mut counts = vec![0usize; groups.iter().max().map_or(0, |g| g + 1)];
    groups.iter().for_each(|&group| counts[group] += 1);
    let weighted = |rows: &[Held]| {
        let all: f64 = rows.iter().map(|r| 1.0 / counts[r.group] as f64).sum();
        Held::each(|value| rows.iter().map(|r| value(r) / counts[r.group] as f64).sum::<f64>() / all)
    };
    let bounds = bootstrap::interval(held, &groups, resamples, rng, weighted);
    let names = [("coverage", Some(1.0 - alpha)), ("size", None), ("empty", None)];
    ConformalFigures {
        method: method.to_string(),
        figures: Figure::list(names, Held::means(held), bounds),
        thresholds: Vec::new(),
        sets: Vec::new(),
        by_class: Vec::new(),
        by_subgroup: Vec::new(),
    }
}
