//! Linear probe: what a logistic regression on frozen image embeddings makes of the labels.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::encoded::{EncodedSplit, numbers};
use crate::data::{ImageSource, Row};
use crate::metrics::calibration::{argmax, softmax};
use crate::metrics::{classification as metric, logistic::Logistic};
use crate::session::Encoder;

/// Inverse strength of regularisation: scikit-learn's default.
const C: f64 = 1.0;

/// Figures of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Labels that it tells apart, in the order of their names.
    pub classes: Vec<String>,
    /// Images that it was fitted on.
    pub fitted_on: usize,
    /// Images that it was judged on.
    pub images: usize,
    /// Of those, whose label was never seen and which count as wrong.
    pub unseen: usize,
    /// Share of right answers.
    pub accuracy: f64,
    /// What always naming the most frequent label gives.
    pub accuracy_chance: f64,
    /// Mean over classes of the share found.
    pub balanced_accuracy: f64,
    /// Mean over classes of F1.
    pub macro_f1: f64,
    /// Mean over classes of AUROC against the others.
    pub auroc_macro: f64,
}

/// Fits on `train`, judges on `split`; rows without a label are left out.
///
/// # Errors
/// Fewer than two labels, an image that cannot be read.
pub(super) fn linear_probe(encoder: &Encoder, train: &[Row], split: &EncodedSplit) -> Result<ProbeReport> {
    let (images, of_train) = labelled(train);
    let train: Vec<ImageSource> = images.iter().map(|&row| train[row].image()).collect();
    let (test, of_test) = labelled(split.pairs.rows);
    let test: Vec<usize> = test.into_iter().map(|row| split.pairs.images.of_row[row]).collect();
    let known: BTreeMap<&str, usize> = of_train.iter().map(|l| (l.as_str(), 0)).collect();
    let known: BTreeMap<&str, usize> = known.into_keys().enumerate().map(|(i, name)| (name, i)).collect();
    ensure!(known.len() > 1, "a linear probe needs training rows with at least 2 labels; there are {}", known.len());
    ensure!(!test.is_empty(), "a linear probe needs labelled rows to be judged on");
    let targets: Vec<usize> = of_train.iter().map(|l| known[l.as_str()]).collect();
    let model = Logistic::fit(&numbers(&encoder.images(&train)?)?, &targets, known.len(), C);
    let embeds = numbers(&split.images)?;
    let p: Vec<Vec<f64>> = test.iter().map(|&image| softmax(&model.logits(&embeds[image]), 1.0)).collect();
    // A label that training never saw is a class that is never predicted.
    let targets: Vec<usize> = of_test.iter().map(|l| known.get(l.as_str()).copied().unwrap_or(known.len())).collect();
    let predicted: Vec<usize> = p.iter().map(|p| argmax(p)).collect();
    let mut counts = vec![0usize; known.len() + 1];
    targets.iter().for_each(|&t| counts[t] += 1);
    let aurocs = (0..known.len()).map(|k| {
        let scores: Vec<f64> = p.iter().map(|p| p[k]).collect();
        metric::auroc(&scores, &targets.iter().map(|&t| t == k).collect::<Vec<_>>())
    });
    let aurocs: Vec<f64> = aurocs.filter(|a| !a.is_nan()).collect();
    Ok(ProbeReport {
        classes: known.keys().map(ToString::to_string).collect(),
        fitted_on: train.len(),
        images: test.len(),
        unseen: counts[known.len()],
        accuracy: metric::accuracy(&targets, &predicted),
        accuracy_chance: counts.iter().copied().max().unwrap_or(0) as f64 / test.len() as f64,
        balanced_accuracy: metric::balanced_accuracy(&targets, &predicted, known.len() + 1),
        macro_f1: metric::macro_f1(&targets, &predicted, known.len() + 1),
        auroc_macro: aurocs.iter().sum::<f64>() / aurocs.len() as f64,
    })
}

/// The first labelled row of each image, and the labels of these.
fn labelled(rows: &[Row]) -> (Vec<usize>, Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    let all = rows.iter().enumerate().filter_map(|(i, row)| Some((i, row.label()?.to_string())));
    all.filter(|&(i, _)| seen.insert(rows[i].image())).unzip()
}
