//! Figures against scikit-learn, torchmetrics and scipy (scripts/golden/metrics.py). Tolerance 1e-9 absolute unless
//! said.
#![allow(clippy::unwrap_used)]

use crate::common;
use reportclip::metrics::calibration::{self, Answer};
use reportclip::metrics::{classification, logistic::Logistic, ranking::Ranking};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_slice(&std::fs::read(common::golden("metrics.json")).unwrap()).unwrap();
    let cases = golden[kind].as_array().unwrap().clone();
    assert!(cases.len() > 1);
    cases
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn rows(v: &Value) -> Vec<Vec<f64>> {
    v.as_array().unwrap().iter().map(numbers).collect()
}

fn truths(v: &Value) -> Vec<bool> {
    v.as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect()
}

fn classes(v: &Value) -> Vec<usize> {
    v.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn close(case: &Value, key: &str, ours: f64, tolerance: f64) {
    let theirs = case[key].as_f64().unwrap();
    assert!((ours - theirs).abs() <= tolerance, "{key}: {ours}, expected {theirs}");
}

#[test]
fn classes_and_calibration() {
    for case in cases("multiclass") {
        let (logits, targets) = (rows(&case["logits"]), classes(&case["targets"]));
        let k = logits[0].len();
        let p: Vec<Vec<f64>> = logits.iter().map(|z| calibration::softmax(z, 1.0)).collect();
        let predicted: Vec<usize> = p.iter().map(|p| calibration::argmax(p)).collect();
        close(&case, "accuracy", classification::accuracy(&targets, &predicted), 1e-12);
        close(&case, "balanced_accuracy", classification::balanced_accuracy(&targets, &predicted, k), 1e-12);
        close(&case, "macro_f1", classification::macro_f1(&targets, &predicted, k), 1e-12);
        for (class, theirs) in numbers(&case["auroc"]).into_iter().enumerate() {
            let scores: Vec<f64> = p.iter().map(|p| p[class]).collect();
            let positive: Vec<bool> = targets.iter().map(|&t| t == class).collect();
            assert!((classification::auroc(&scores, &positive) - theirs).abs() < 1e-12);
        }
        let judged = |i: usize| Answer { confidence: p[i][predicted[i]], right: predicted[i] == targets[i] };
        let judged: Vec<Answer> = (0..p.len()).map(judged).collect();
        let bins = calibration::equal_width(&judged, calibration::BINS);
        // torchmetrics bins in f32.
        close(&case, "ece", calibration::expected_error(&bins), 1e-6);
        close(&case, "mce", calibration::maximum_error(&bins), 1e-6);
        let by_mass = calibration::equal_mass(&judged, calibration::BINS);
        close(&case, "ece_equal_mass", calibration::expected_error(&by_mass), 1e-12);
        let mean = |f: &dyn Fn(usize) -> f64| (0..p.len()).map(f).sum::<f64>() / p.len() as f64;
        close(&case, "brier", mean(&|i| calibration::brier(&p[i], targets[i])), 1e-12);
        let nll = |t: f64| mean(&|i| calibration::negative_log_likelihood(&logits[i], targets[i], t));
        close(&case, "nll", nll(1.0), 1e-12);
        let t = calibration::fit_temperature(logits.iter().map(Vec::as_slice).zip(targets.iter().copied()));
        close(&case, "temperature", t, 1e-4);
        close(&case, "nll_scaled", nll(t), 1e-9);
        close(&case, "aurc", calibration::area_under_risk(&calibration::risk_coverage(&judged)), 1e-12);
    }
}

#[test]
fn scores_with_ties() {
    for case in cases("binary") {
        let (scores, positive) = (numbers(&case["scores"]), truths(&case["positive"]));
        close(&case, "auroc", classification::auroc(&scores, &positive), 1e-12);
        close(&case, "average_precision", classification::average_precision(&scores, &positive), 1e-12);
        close(&case, "f1_at_0", classification::f1_at(&scores, &positive, 0.0), 1e-12);
        let threshold = classification::best_threshold(&scores, &positive).unwrap();
        close(&case, "best_f1", classification::f1_at(&scores, &positive, threshold), 1e-12);
    }
}

#[test]
fn rankings() {
    for case in cases("ranking") {
        let ranking = Ranking::of_query(&numbers(&case["scores"]), &truths(&case["alike"])).unwrap();
        // torchmetrics works in f32.
        ranking.figures().iter().for_each(|(name, ours)| close(&case, name, *ours, 1e-6));
    }
}

#[test]
fn probes_find_what_scikit_learn_finds() {
    for case in cases("probe") {
        let (x, y) = (rows(&case["x"]), classes(&case["y"]));
        let model = Logistic::fit(&x, &y, y.iter().max().unwrap() + 1, 1.0);
        for (x, theirs) in x.iter().zip(rows(&case["probabilities"])) {
            let ours = calibration::softmax(&model.logits(x), 1.0);
            ours.iter().zip(&theirs).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{ours:?} {theirs:?}"));
        }
    }
}
