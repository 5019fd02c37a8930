//! Selective prediction: how much better a model is where it may leave out what it is unsure of, by several scores of
//! how sure it is.

use std::collections::HashSet;

use rand::Rng;
use rand::seq::SliceRandom;
use statrs::distribution::{Beta, ContinuousCDF};

use super::calibration::{Answer, RiskPoint, area_under_risk, risk_coverage, softmax};
use crate::words::words;

words!(
    /// What says how sure a prediction is, from its logits; more is surer.
    Sureness {
        /// Probability of what is predicted.
        MaxProbability = "max_probability",
        /// That probability minus the second highest.
        Margin = "margin",
        /// The highest logit after their mean is taken off and they are divided by their length (2-norm): what Xia et
        /// al. (arXiv 2403.14715) and Cattelan and Silva (arXiv 2305.15508) mend smoothed models with. Of two classes
        /// it is always the same, and says nothing.
        NormalisedLogit = "normalised_logit",
        /// Minus the entropy of the probabilities.
        Entropy = "entropy",
    }
);

impl Sureness {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MaxProbability, Self::Margin, Self::NormalisedLogit, Self::Entropy];

    /// Of a prediction; at least two logits.
    pub fn of(self, logits: &[f64]) -> f64 {
        match self {
            Self::NormalisedLogit => normalised_logit(logits),
            Self::Entropy => softmax(logits, 1.0).iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum(),
            Self::MaxProbability | Self::Margin => {
                let p = softmax(logits, 1.0);
                let (first, second) =
                    p.iter().fold(
                        (0.0, 0.0),
                        |(first, second): (f64, f64), &p| {
                            if p > first { (p, first) } else { (first, second.max(p)) }
                        },
                    );
                if self == Self::Margin { first - second } else { first }
            }
        }
    }
}

fn normalised_logit(logits: &[f64]) -> f64 {
    let mean = logits.iter().sum::<f64>() / logits.len() as f64;
    let norm = logits.iter().map(|z| (z - mean).powi(2)).sum::<f64>().sqrt();
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (highest - mean) / norm.max(1e-12)
}

/// Shares of the predictions that are answered, for [`accuracy_at`].
pub const COVERAGES: [f64; 3] = [0.5, 0.8, 0.9];
/// Shares of right answers that are wanted, for [`coverage_at`].
pub const ACCURACIES: [f64; 3] = [0.8, 0.9, 0.95];

/// Figures of a risk–coverage curve. The confidence of an [`Answer`] may here be any score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selective {
    /// Area under the curve: mean risk over all coverages; lower is better, a random order gives the error rate.
    pub aurc: f64,
    /// The same above what the best order of the same answers gives; 0 where every right one is surer than every wrong
    /// one (Geifman, Uziel and El-Yaniv, arXiv 1805.08206).
    pub excess_aurc: f64,
    /// Share of right ones among the surest, for each of [`COVERAGES`].
    pub accuracy_at: [f64; 3],
    /// Share that may be answered with each of [`ACCURACIES`]; 0 where no threshold reaches it.
    pub coverage_at: [f64; 3],
}

impl Selective {
    /// Of at least one answer.
    pub fn of(answers: &[Answer]) -> Self {
        let points = risk_coverage(answers);
        let aurc = area_under_risk(&points);
        Self {
            aurc,
            excess_aurc: aurc - best_area(answers),
            accuracy_at: COVERAGES.map(|coverage| accuracy_at(&points, coverage)),
            coverage_at: ACCURACIES.map(|accuracy| threshold_for(answers, accuracy).map_or(0.0, |t| t.coverage)),
        }
    }

    /// Name and value of each.
    pub fn figures(&self) -> [(&'static str, f64); 8] {
        [
            ("aurc", self.aurc),
            ("excess_aurc", self.excess_aurc),
            ("accuracy_of_50", self.accuracy_at[0]),
            ("accuracy_of_80", self.accuracy_at[1]),
            ("accuracy_of_90", self.accuracy_at[2]),
            ("coverage_at_80", self.coverage_at[0]),
            ("coverage_at_90", self.coverage_at[1]),
            ("coverage_at_95", self.coverage_at[2]),
        ]
    }
}

/// Area under the curve of as many right and wrong answers, all right ones first.
pub fn best_area(answers: &[Answer]) -> f64 {
    let (all, right) = (answers.len(), answers.iter().filter(|a| a.right).count());
    (right + 1..=all).map(|taken| (taken - right) as f64 / taken as f64).sum::<f64>() / all as f64
}

/// Share of right ones among the surest `coverage` of all; equally sure ones count as if in random order.
fn accuracy_at(points: &[RiskPoint], coverage: f64) -> f64 {
    let point = points.iter().find(|p| p.coverage >= coverage - 1e-9).or(points.last());
    point.map_or(f64::NAN, |p| 1.0 - p.risk)
}

/// A threshold of sureness: what is as sure or surer is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Of the score.
    pub value: f64,
    /// Share of the predictions that are answered.
    pub coverage: f64,
    /// Share of these that are right.
    pub accuracy: f64,
}

/// The lowest threshold at which a share of at least `accuracy` of the answers is right; `None` where there is none.
pub fn threshold_for(answers: &[Answer], accuracy: f64) -> Option<Threshold> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let (mut taken, mut right, mut found) = (0, 0, None);
    for tied in sorted.chunk_by(|a, b| a.confidence == b.confidence) {
        taken += tied.len();
        right += tied.iter().filter(|a| a.right).count();
        let reached = right as f64 / taken as f64;
        if reached >= accuracy - 1e-12 {
            let coverage = taken as f64 / sorted.len() as f64;
            found = Some(Threshold { value: tied[0].confidence, coverage, accuracy: reached });
        }
    }
    found
}

/// The lowest threshold of which it can be said with 95 % confidence that a share of `accuracy` of the answers is
/// right: by the lower bound of Clopper and Pearson, in which each patient, `groups[i]` of answer i, counts as one
/// answer. The best of many thresholds on few patients would else look better than it is. `None` where there is none.
pub fn safe_threshold(answers: &[Answer], groups: &[usize], accuracy: f64) -> Option<Threshold> {
    let mut sorted: Vec<(&Answer, usize)> = answers.iter().zip(groups.iter().copied()).collect();
    sorted.sort_by(|(a, _), (b, _)| b.confidence.total_cmp(&a.confidence));
    let (mut taken, mut right, mut found, mut patients) = (0, 0, None, HashSet::new());
    for tied in sorted.chunk_by(|(a, _), (b, _)| a.confidence == b.confidence) {
        taken += tied.len();
        right += tied.iter().filter(|(a, _)| a.right).count();
        patients.extend(tied.iter().map(|(_, group)| *group));
        let reached = right as f64 / taken as f64;
        if reached > accuracy && is_above(reached, patients.len() as f64, accuracy) {
            let coverage = taken as f64 / sorted.len() as f64;
            found = Some(Threshold { value: tied[0].0.confidence, coverage, accuracy: reached });
        }
    }
    found
}

/// Whether a share of `n` trials has a one-sided lower 95 % bound of at least `accuracy`.
fn is_above(share: f64, n: f64, accuracy: f64) -> bool {
    let bound = Beta::new(share * n, n - share * n + 1.0);
    bound.is_ok_and(|bound| bound.cdf(accuracy) <= 0.05)
}

/// [`Selective::coverage_at`] of as many right answers in an order that says nothing: the mean over random ones. Above
/// 0 even so, for the best of many thresholds is taken.
pub fn coverage_by_chance<R: Rng>(answers: &[Answer], orders: impl ExactSizeIterator<Item = R>) -> [f64; 3] {
    let mut answers = answers.to_vec();
    answers.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let (mut right, n) = (answers.iter().map(|a| a.right).collect::<Vec<bool>>(), orders.len() as f64);
    let mut mean = [0.0; 3];
    for mut rng in orders {
        right.shuffle(&mut rng);
        answers.iter_mut().zip(&right).for_each(|(answer, right)| answer.right = *right);
        for (mean, accuracy) in mean.iter_mut().zip(ACCURACIES) {
            *mean += threshold_for(&answers, accuracy).map_or(0.0, |t| t.coverage) / n;
        }
    }
    mean
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;
    use crate::seed::{Purpose, stream};

    #[test]
    fn a_kept_threshold_holds_on_others_and_a_useless_order_has_its_coverage_by_luck() {
        // A useless order of answers of which 88 in 100 are right: "90 % right" is reached somewhere on any data.
        let mut rng = stream(4, Purpose::Outcomes, 0);
        let useless: Vec<Answer> =
            (0..100).map(|i| Answer { confidence: rng.random::<f64>(), right: i % 25 >= 3 }).collect();
        let orders = (0..200).map(|i| stream(0, Purpose::RandomOrder, i)).collect::<Vec<_>>();
        let by_chance = coverage_by_chance(&useless, orders.into_iter());
        assert!(
            (by_chance[0] - 1.0).abs() < 1e-12 && by_chance[1] > 0.2 && by_chance[2] < by_chance[1],
            "{by_chance:?}"
        );
        // Over many studies: right as often as asked for on patients to come, from thresholds of 150 patients.
        let (mut kept, mut safe, mut naive) = (0.0, 0.0, 0.0);
        let groups: Vec<usize> = (0..150).collect();
        for _ in 0..200 {
            let answer = |_| {
                let confidence = rng.random::<f64>();
                Answer { confidence, right: rng.random::<f64>() < 0.6 + 0.4 * confidence }
            };
            let chosen_on: Vec<Answer> = (0..150).map(answer).collect();
            // The share that is right above t is 0.6 + 0.4 · (1 + t) / 2.
            let holds = |t: Threshold| f64::from(u8::from(0.8 + 0.2 * t.value >= 0.9));
            naive += threshold_for(&chosen_on, 0.9).map_or(0.0, holds) / 200.0;
            if let Some(threshold) = safe_threshold(&chosen_on, &groups, 0.9) {
                kept += 1.0;
                safe += holds(threshold);
            }
        }
        assert!(kept > 20.0 && safe / kept > naive + 0.2 && safe / kept > 0.7, "{safe} of {kept}, naive {naive}");
        // Ten rows of one patient are one answer.
        let sure = vec![Answer { confidence: 1.0, right: true }; 60];
        let one: Vec<usize> = (0..60).map(|i| i / 10).collect();
        assert_eq!(safe_threshold(&sure, &one, 0.9), None);
        assert_eq!(safe_threshold(&sure, &(0..60).collect::<Vec<_>>(), 0.9).unwrap().coverage, 1.0);
    }

    #[test]
    fn the_best_order_has_no_excess_and_a_threshold_keeps_its_word() {
        let answers = |right: &[bool]| -> Vec<Answer> {
            let confidence = |i: usize| 1.0 - i as f64 / 10.0;
            right.iter().enumerate().map(|(i, &right)| Answer { confidence: confidence(i), right }).collect()
        };
        let best = Selective::of(&answers(&[true, true, true, false, false]));
        assert_eq!((best.excess_aurc, best.coverage_at), (0.0, [0.6; 3]));
        assert!((best.aurc - (1.0 / 4.0 + 2.0 / 5.0) / 5.0).abs() < 1e-12);
        assert!((best.accuracy_at[1] - 0.75).abs() < 1e-12);
        let worst = Selective::of(&answers(&[false, false, true, true, true]));
        assert!(worst.excess_aurc > 0.3 && worst.coverage_at == [0.0; 3]);
        // A mistake early on does not end the search, and equal ones are answered together or not at all.
        let mut mixed = answers(&[false, true, true, true, true, false]);
        let threshold = threshold_for(&mixed, 0.8).unwrap();
        assert!((threshold.value - 0.6).abs() < 1e-12 && (threshold.accuracy - 0.8).abs() < 1e-12);
        mixed[5].confidence = mixed[4].confidence;
        assert_eq!(threshold_for(&mixed, 0.8), None);
    }

    #[test]
    fn the_normalised_logit_knows_no_scale_and_nothing_of_two_classes() {
        let score = |z: &[f64]| Sureness::NormalisedLogit.of(z);
        let (one, scaled) = (score(&[3.0, 1.0, -1.0]), score(&[31.0, 11.0, -9.0]));
        assert!((one - scaled).abs() < 1e-12 && (one - 2.0 / 8f64.sqrt()).abs() < 1e-12);
        assert!((score(&[5.0, 1.0]) - score(&[0.2, 0.1])).abs() < 1e-12);
        assert_eq!(score(&[1.0, 1.0]), 0.0);
        assert!((Sureness::Margin.of(&[2.0, 0.0]) - 1f64.tanh()).abs() < 1e-12);
        assert!((Sureness::Entropy.of(&[0.0; 4]) + 4f64.ln()).abs() < 1e-12);
    }
}
