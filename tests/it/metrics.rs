//! Figures against scikit-learn, torchmetrics and scipy (scripts/golden/metrics.py). Tolerance 1e-9 absolute unless
//! said.
#![allow(clippy::unwrap_used)]

use crate::common;
use reportclip::metrics::calibration::{self, Answer};
use reportclip::metrics::conformal::{self, Calibrator, Findings};
use reportclip::metrics::few_shot::{LinearHead, Method, Shots};
use reportclip::metrics::grounding::Grounding;
use reportclip::metrics::hierarchical::{PatientFigure, compare};
use reportclip::metrics::selective::{Selective, Sureness};
use reportclip::metrics::students_t;
use reportclip::metrics::vector_scaling::VectorScaling;
use reportclip::metrics::{classification, logistic::Logistic, ranking::Ranking};
use reportclip::seed::{Purpose, stream};
use serde_json::Value;

fn cases(kind: &str) -> Vec<Value> {
    cases_of("metrics.json", kind)
}

fn cases_of(file: &str, kind: &str) -> Vec<Value> {
    let golden: Value = serde_json::from_slice(&std::fs::read(common::golden(file)).unwrap()).unwrap();
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

/// scripts/golden/few_shot.py: the probe by autograd, its steps in the same order.
#[test]
fn few_shot_heads_are_those_of_autograd_numpy_and_scikit_learn() {
    let mut compared = 0;
    for case in cases_of("few_shot.json", "cases") {
        let (x, y, texts) = (rows(&case["x"]), classes(&case["y"]), rows(&case["texts"]));
        let shots = Shots { x: &x, y: &y, texts: &texts, scale: case["scale"].as_f64().unwrap() };
        for method in Method::ALL {
            let Some(theirs) = case.get(method.word()) else { continue };
            let head = LinearHead::fit(method, &shots);
            for (x, theirs) in rows(&case["judged"]).iter().zip(rows(theirs)) {
                let logits = head.logits(x);
                let (ours, tolerance) = match method {
                    Method::Logistic => (calibration::softmax(&logits, 1.0), 1e-5),
                    _ => (logits, 1e-8),
                };
                let close = |(a, b): (&f64, &f64)| (a - b).abs() <= tolerance * (1.0 + b.abs());
                assert!(ours.iter().zip(&theirs).all(close), "{}: {ours:?} {theirs:?}", method.word());
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 8 * 8);
}

/// scripts/golden/seeds.py: a mean over seeds, and two settings, by draws, on patients that are all alike.
#[test]
fn seeds_are_judged_as_scipy_judges_them() {
    for case in cases_of("seeds.json", "means") {
        let (low, high) = students_t::interval(&numbers(&case["values"])).unwrap();
        let theirs = numbers(&case["interval"]);
        assert!((low - theirs[0]).abs() < 1e-9 && (high - theirs[1]).abs() < 1e-9, "{low} {high}: {case}");
    }
    assert_eq!((students_t::interval(&[1.0]), students_t::interval(&[1.0, f64::NAN])), (None, None));
    for case in cases_of("seeds.json", "pairs") {
        let runs = |key: &str| -> Vec<PatientFigure> {
            numbers(&case[key]).iter().map(|v| PatientFigure::Mean(vec![vec![(*v, 1.0); 2]])).collect()
        };
        let (a, b) = (runs("a"), runs("b"));
        let (a, b): (Vec<&PatientFigure>, Vec<&PatientFigure>) = (a.iter().collect(), b.iter().collect());
        let ours = compare(&a, &b, 40_000, |i| stream(1, Purpose::Bootstrap, i)).unwrap();
        let theirs = numbers(&case["interval"]);
        // The bounds of 40,000 draws of few degrees of freedom.
        let tolerance = 0.1 * (theirs[1] - theirs[0]);
        let apart = (ours.interval.0 - theirs[0]).abs().max((ours.interval.1 - theirs[1]).abs());
        assert!(apart < tolerance, "{ours:?}: {case}");
        close(&case, "p", ours.p, 0.02);
    }
}

/// scripts/golden/calibration_errors.py.
#[test]
fn finer_calibration_errors_and_vector_scaling() {
    for case in cases_of("calibration.json", "cases") {
        let (logits, targets) = (rows(&case["logits"]), classes(&case["targets"]));
        let both: Vec<(Vec<f64>, usize)> =
            logits.iter().map(|z| calibration::softmax(z, 1.0)).zip(targets.iter().copied()).collect();
        close(&case, "classwise", calibration::classwise_error(&both, calibration::BINS), 1e-12);
        let answer = |(p, target): &(Vec<f64>, usize)| {
            let best = calibration::argmax(p);
            Answer { confidence: p[best], right: best == *target }
        };
        let answers: Vec<Answer> = both.iter().map(answer).collect();
        close(&case, "square", calibration::square_error(&answers, calibration::BINS), 1e-12);
        close(&case, "debiased", calibration::debiased_error(&answers, calibration::BINS), 1e-12);
        let fitted: Vec<(&[f64], usize)> = logits.iter().map(Vec::as_slice).zip(targets.iter().copied()).collect();
        let scaling = VectorScaling::fit(&fitted, logits[0].len());
        for (z, theirs) in logits.iter().zip(rows(&case["vector"])) {
            let ours = scaling.apply(z);
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-4), "{ours:?} {theirs:?}");
        }
    }
}

/// scripts/golden/selective.py, which averages every order of tied answers.
#[test]
fn selective_prediction_by_every_score() {
    let figures = |case: &Value, answers: &[Answer]| {
        Selective::of(answers).figures().iter().for_each(|(name, ours)| close(case, name, *ours, 1e-9));
    };
    for case in cases_of("selective.json", "cases") {
        let (logits, targets) = (rows(&case["logits"]), classes(&case["targets"]));
        for score in Sureness::ALL {
            let theirs = &case["scores"][score.word()];
            let confidences: Vec<f64> = logits.iter().map(|z| score.of(z)).collect();
            let apart = confidences.iter().zip(numbers(&theirs["values"])).map(|(a, b)| (a - b).abs());
            assert!(apart.fold(0.0, f64::max) < 1e-12, "{}", score.word());
            let right = logits.iter().zip(&targets).map(|(z, &target)| calibration::argmax(z) == target);
            let answers: Vec<Answer> =
                confidences.into_iter().zip(right).map(|(confidence, right)| Answer { confidence, right }).collect();
            figures(theirs, &answers);
        }
    }
    for case in cases_of("selective.json", "ties") {
        let both = numbers(&case["confidence"]).into_iter().zip(truths(&case["right"]));
        figures(&case, &both.map(|(confidence, right)| Answer { confidence, right }).collect::<Vec<_>>());
    }
}

/// Sets of classes as torchcp and MAPIE make them (scripts/golden/conformal.py).
#[test]
fn conformal_sets_are_those_of_torchcp_and_mapie() {
    let mut filled = 0;
    for case in cases_of("conformal.json", "classes") {
        let alpha = case["alpha"].as_f64().unwrap();
        let probabilities =
            |key: &str| -> Vec<Vec<f64>> { rows(&case[key]).iter().map(|z| calibration::softmax(z, 1.0)).collect() };
        let (calibrated, judged, targets) =
            (probabilities("logits"), probabilities("judged"), classes(&case["targets"]));
        let quantile = |score: conformal::Score, class: Option<usize>| {
            let rows = calibrated.iter().zip(&targets).enumerate();
            let own = rows.filter(|(_, (_, target))| class.is_none_or(|class| class == **target));
            let calibrators = own.map(|(group, (p, target))| Calibrator { score: score.of(p)[*target], group });
            conformal::quantile(&calibrators.collect::<Vec<_>>(), alpha)
        };
        let sets = |score: conformal::Score, thresholds: &[f64]| -> Vec<Vec<usize>> {
            judged.iter().map(|p| score.set(p, thresholds).into_iter().map(usize::from).collect()).collect()
        };
        let theirs = |name: &str| -> Vec<Vec<usize>> {
            case["sets"][name]["sets"].as_array().unwrap().iter().map(classes).collect()
        };
        let k = judged[0].len();
        for score in conformal::Score::ALL {
            let threshold = quantile(score, None);
            // torchcp's penalty is an f32.
            close(&case["sets"][score.word()], "quantile", threshold, 1e-7);
            let mut expected = theirs(score.word());
            // Where theirs is empty, ours by APS and RAPS has the most probable class.
            for (set, p) in expected.iter_mut().zip(&judged).filter(|_| score != conformal::Score::Lac) {
                if set.iter().all(|is_in| *is_in == 0) {
                    set[calibration::argmax(p)] = 1;
                    filled += 1;
                }
            }
            assert_eq!(sets(score, &vec![threshold; k]), expected, "{} at {alpha}", score.word());
            let own: Vec<f64> = (0..k).map(|class| quantile(score, Some(class))).collect();
            let name = format!("{}_by_class", score.word());
            // Infinite: too few of the class.
            let known = |q: &Value| q.as_f64().unwrap_or(f64::INFINITY);
            let quantiles: Vec<f64> = case["sets"][&name]["quantile"].as_array().unwrap().iter().map(known).collect();
            let same = |(a, b): (&f64, &f64)| a == b || (a - b).abs() < 1e-7;
            assert!(own.len() == k && own.iter().zip(&quantiles).all(same), "{name}: {own:?} {quantiles:?}");
            for ((p, theirs), ours) in judged.iter().zip(theirs(&name)).zip(sets(score, &own)) {
                let first = calibration::argmax(p);
                for (class, (s, t)) in score.of(p).iter().zip(&own).enumerate() {
                    // The probability of all is 1 here, and what rounding makes of it there.
                    let tied = (s - t).abs() < 1e-9;
                    let added = class == first && score != conformal::Score::Lac && ours[class] == 1;
                    assert!(tied || added || ours[class] == theirs[class], "{name} at {alpha}: {s} {t}");
                }
            }
        }
        let lac = conformal::Score::Lac;
        assert_eq!(sets(lac, &vec![quantile(lac, None); k]), theirs("mapie_lac"));
    }
    assert!(filled > 0, "no set was empty there");
}

#[test]
fn risk_is_controlled_by_the_threshold_that_trying_all_finds() {
    for case in cases_of("conformal.json", "risk") {
        let has = case["has"].as_array().unwrap().iter().map(truths);
        let images =
            rows(&case["probabilities"]).into_iter().zip(has).enumerate().map(|(group, (probabilities, has))| {
                Findings { probabilities, has: has.into_iter().map(Some).collect(), group }
            });
        let threshold = conformal::risk_threshold(&images.collect::<Vec<_>>(), case["alpha"].as_f64().unwrap());
        close(&case, "threshold", threshold, 1e-12);
    }
}

/// scripts/golden/grounding.py: maps over boxes in numpy.
#[test]
fn grounding_is_numpys() {
    for case in cases_of("grounding.json", "cases") {
        let map: Vec<f32> = numbers(&case["map"]).into_iter().map(|v| v as f32).collect();
        let inside: Vec<bool> = case["inside"].as_array().unwrap().iter().map(|v| v.as_bool().unwrap()).collect();
        let ours = Grounding::of(&map, &inside).unwrap();
        let close = |name: &str, ours: &[f64], theirs: Vec<f64>| {
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-9;
            assert!(ours.len() == theirs.len() && ours.iter().zip(&theirs).all(near), "{name}: {ours:?} {theirs:?}");
        };
        close("overlap", &ours.overlap, numbers(&case["overlap"]));
        close("overlap by chance", &ours.overlap_by_chance, numbers(&case["overlap_by_chance"]));
        let single = [("contrast", ours.contrast), ("pointing", ours.pointing)];
        for (name, value) in single.into_iter().chain([("pointing_by_chance", ours.pointing_by_chance)]) {
            close(name, &[value], vec![case[name].as_f64().unwrap()]);
        }
    }
}
