//! Calibration of predictions over classes, before and after temperature scaling.

use serde::{Deserialize, Serialize};

use super::halves::Halves;
use crate::metrics::calibration::{
    Answer, BINS, Bin, RiskPoint, area_under_risk, argmax, brier, classwise_error, debiased_error, equal_mass,
    equal_width, error_floor, expected_error, fit_temperature, maximum_error, negative_log_likelihood, risk_coverage,
    softmax, square_error,
};
use crate::metrics::vector_scaling::VectorScaling;
use crate::seed::{Purpose, stream};

/// A prediction that can be judged.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// One a class; their softmax is the model's probability.
    pub logits: Vec<f64>,
    /// What was so.
    pub target: usize,
    /// What logits are divided by for the scaled figures; never fitted on this prediction's patient.
    pub temperature: f64,
    /// Number of its patient (of its image where patients are not named).
    pub group: usize,
}

impl Prediction {
    /// Probabilities, scaled or as the model gives them.
    pub fn probabilities(&self, scaled: bool) -> Vec<f64> {
        softmax(&self.logits, if scaled { self.temperature } else { 1.0 })
    }

    /// The class with the highest probability.
    pub fn predicted(&self) -> usize {
        argmax(&self.logits)
    }

    fn answer(&self, scaled: bool) -> Answer {
        let (p, best) = (self.probabilities(scaled), self.predicted());
        Answer { confidence: p[best], right: best == self.target }
    }
}

/// Calibration of many predictions. Lower is better for all but temperature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean −ln of the target's probability.
    pub nll: f64,
    /// Mean squared distance of probabilities from what was so, summed over classes (0 to 2).
    pub brier: f64,
    /// Expected calibration error over 15 bins of equal width.
    pub ece: f64,
    /// The same over 15 bins with equally many predictions.
    pub ece_equal_mass: f64,
    /// The largest error of any bin of equal width.
    pub mce: f64,
}

impl Calibration {
    /// Of `predictions`, as they are or scaled.
    pub fn of(predictions: &[&Prediction], scaled: bool) -> Self {
        let answers: Vec<Answer> = predictions.iter().map(|p| p.answer(scaled)).collect();
        let n = predictions.len() as f64;
        let mean = |f: &dyn Fn(&Prediction) -> f64| predictions.iter().map(|p| f(p)).sum::<f64>() / n;
        let width = equal_width(&answers, BINS);
        Self {
            nll: mean(&|p| negative_log_likelihood(&p.logits, p.target, if scaled { p.temperature } else { 1.0 })),
            brier: mean(&|p| brier(&p.probabilities(scaled), p.target)),
            ece: expected_error(&width),
            ece_equal_mass: expected_error(&equal_mass(&answers, BINS)),
            mce: maximum_error(&width),
        }
    }

    /// Name and value of each.
    pub fn figures(&self) -> [(&'static str, f64); 5] {
        [
            ("nll", self.nll),
            ("brier", self.brier),
            ("ece", self.ece),
            ("ece_equal_mass", self.ece_equal_mass),
            ("mce", self.mce),
        ]
    }
}

/// Classwise and debiased calibration error of predictions over the same classes, as they are or scaled; NaN without
/// any.
pub(super) fn finer_errors(predictions: &[&Prediction], scaled: bool) -> [f64; 2] {
    if predictions.is_empty() {
        return [f64::NAN; 2];
    }
    let rows: Vec<_> = predictions.iter().map(|p| (p.probabilities(scaled), p.target)).collect();
    let answers: Vec<Answer> = predictions.iter().map(|p| p.answer(scaled)).collect();
    [classwise_error(&rows, BINS), debiased_error(&answers, BINS)]
}

/// Root mean square calibration error with what luck adds; NaN without predictions.
pub(super) fn error_with_luck(predictions: &[&Prediction], scaled: bool) -> f64 {
    let answers: Vec<Answer> = predictions.iter().map(|p| p.answer(scaled)).collect();
    if answers.is_empty() { f64::NAN } else { square_error(&answers, BINS) }
}

/// Predictions over the same classes after vector scaling, fitted as temperatures are: on others, or crosswise.
pub(super) fn vector_scaled(
    predictions: &[&Prediction],
    others: Option<&[&Prediction]>,
    halves: &Halves,
) -> Option<Calibration> {
    let classes = predictions.first()?.logits.len();
    let fit = |rows: &[&&Prediction]| {
        let rows: Vec<(&[f64], usize)> = rows.iter().map(|p| (p.logits.as_slice(), p.target)).collect();
        VectorScaling::fit(&rows, classes)
    };
    let fitted = halves.fit(predictions, others, |p| p.group, fit);
    let scaled = |p: &&Prediction| Prediction { logits: fitted[halves.half(p.group)].apply(&p.logits), ..(*p).clone() };
    let scaled: Vec<Prediction> = predictions.iter().map(scaled).collect();
    Some(Calibration::of(&scaled.iter().collect::<Vec<_>>(), false))
}

/// Everything about calibration that is drawn or printed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationReport {
    /// Predictions that were judged.
    pub predictions: usize,
    /// As the model gives them.
    pub as_is: Calibration,
    /// After temperature scaling.
    pub scaled: Calibration,
    /// The ECE that probabilities which mean just what they say would show on as many predictions.
    #[serde(default)]
    pub ece_floor: f64,
    /// The same of those after scaling.
    #[serde(default)]
    pub ece_floor_scaled: f64,
    /// The temperature (geometric mean where several were fitted); above 1 the model was too sure of itself.
    pub temperature: f64,
    /// What it was fitted on.
    pub fitted_on: String,
    /// Reliability curve, bins of equal width.
    pub reliability: Vec<Bin>,
    /// The same after scaling.
    pub reliability_scaled: Vec<Bin>,
    /// At most 101 points, from the most confident prediction to all.
    pub risk_coverage: Vec<RiskPoint>,
    /// After vector scaling, a factor and an offset a class: of classes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector_scaled: Option<Calibration>,
    /// Temperatures of the two directions of matching alone, image→text and text→image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_direction: Option<(f64, f64)>,
    /// Area under that curve; a random order would give the error rate, its last point.
    pub aurc: f64,
}

impl CalibrationReport {
    /// Of predictions whose temperatures are set; `None` without any. They are `rounds` times the same questions, each
    /// time among others, one time after another: as evidence of chance, one counts.
    pub fn of(predictions: &[&Prediction], fitted_on: &str, rounds: usize) -> Option<Self> {
        if predictions.is_empty() {
            return None;
        }
        let answers = |scaled: bool| predictions.iter().map(|p| p.answer(scaled)).collect::<Vec<_>>();
        let points = risk_coverage(&answers(false));
        let every = points.len().div_ceil(100).max(1);
        let shown = |(i, _): &(usize, &RiskPoint)| i % every == 0 || i + 1 == points.len();
        let logs = predictions.iter().map(|p| p.temperature.ln()).sum::<f64>();
        let floor = |scaled: bool| {
            let first = predictions[..predictions.len() / rounds].iter();
            let confidences: Vec<f64> = first.map(|p| p.answer(scaled).confidence).collect();
            error_floor(&confidences, BINS, (0..FLOOR_DRAWS).map(|i| stream(0, Purpose::Outcomes, u64::from(i))))
        };
        Some(Self {
            predictions: predictions.len(),
            as_is: Calibration::of(predictions, false),
            scaled: Calibration::of(predictions, true),
            ece_floor: floor(false),
            ece_floor_scaled: floor(true),
            temperature: (logs / predictions.len() as f64).exp(),
            fitted_on: fitted_on.to_string(),
            reliability: equal_width(&answers(false), BINS),
            reliability_scaled: equal_width(&answers(true), BINS),
            risk_coverage: points.iter().enumerate().filter(shown).map(|(_, p)| *p).collect(),
            vector_scaled: None,
            by_direction: None,
            aurc: area_under_risk(&points),
        })
    }
}

/// Draws for [`CalibrationReport::ece_floor`].
const FLOOR_DRAWS: u32 = 200;

/// What temperatures are fitted on where no other split is at hand: each half of the patients on the other half.
pub const CROSSWISE: &str = "each half of the patients on the other half";

/// Sets temperatures: the one that fits `on` best, or without that, for each of the `halves` of the patients the one
/// that fits the other half. Returns what it was fitted on, in words.
pub(super) fn set_temperatures(
    predictions: &mut [Prediction],
    on: Option<(&[Prediction], &str)>,
    halves: &Halves,
) -> String {
    let fit = |rows: &[&Prediction]| fit_temperature(rows.iter().map(|p| (p.logits.as_slice(), p.target)));
    let fitted = halves.fit(predictions, on.map(|(others, _)| others), |p| p.group, fit);
    predictions.iter_mut().for_each(|p| p.temperature = fitted[halves.half(p.group)]);
    on.map_or(CROSSWISE.to_string(), |(others, name)| format!("{name}, {} predictions", others.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_temperature_sees_its_own_half() {
        // Patients of one half are told by logits that are ten times too large.
        let halves = Halves::of(0..80);
        let prediction = |i: usize| Prediction {
            logits: if halves.half(i) == 0 { vec![10.0, 0.0] } else { vec![1.0, 0.0] },
            target: usize::from((0..i).filter(|k| halves.half(*k) == halves.half(i)).count().is_multiple_of(4)),
            temperature: 1.0,
            group: i,
        };
        let mut all: Vec<Prediction> = (0..80).map(prediction).collect();
        assert_eq!(set_temperatures(&mut all, None, &halves), CROSSWISE);
        // Three in four are right: the odds are 3, whose logarithm the scaled difference must be.
        let right = 3f64.ln();
        for (i, p) in all.iter().enumerate() {
            let others = if halves.half(i) == 0 { 1.0 } else { 10.0 };
            assert!((p.temperature - others / right).abs() < 1e-6, "{i}: {}", p.temperature);
        }
        let own = CalibrationReport::of(&all.iter().collect::<Vec<_>>(), "", 1).unwrap();
        assert!((own.risk_coverage.last().unwrap().risk - 0.25).abs() < 1e-12);
    }
}
