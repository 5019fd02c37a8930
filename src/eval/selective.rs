//! Selective prediction of a model: figures by each score of how sure it is.

use serde::{Deserialize, Serialize};

use super::calibration::Prediction;
use super::figure::Figure;
use crate::metrics::bootstrap;
use crate::metrics::calibration::{Answer, RiskPoint, risk_coverage};
use crate::metrics::selective::{Selective, Sureness, best_area, coverage_by_chance};
use crate::seed::{Purpose, stream};

/// Points of a curve that are kept.
const POINTS: usize = 20;

/// Random orders that "answered at 90 % right" is held against.
const RANDOM_ORDERS: u64 = 200;

/// Figures by one score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SelectiveFigures {
    /// A word of [`Sureness`].
    pub score: String,
    /// [`Selective::figures`], with intervals over patients.
    pub figures: Vec<Figure>,
    /// At most 21 points, from the surest predictions to all.
    pub risk_coverage: Vec<RiskPoint>,
}

/// Resamples for intervals, and their seed.
pub(super) type Resamples = (usize, u64);

/// By each score that says something of these predictions; none without predictions.
pub(super) fn selective(predictions: &[&Prediction], (resamples, seed): Resamples) -> Vec<SelectiveFigures> {
    let groups: Vec<usize> = predictions.iter().map(|p| p.group).collect();
    let classes = predictions.iter().map(|p| p.logits.len()).max().unwrap_or(0);
    let of_score = |score: Sureness| {
        let answers = answers(predictions, score);
        let values = |answers: &[Answer]| Selective::of(answers).figures().map(|(_, value)| value).to_vec();
        let rng = |i: u64| stream(seed, Purpose::Bootstrap, i);
        let bounds = bootstrap::interval(&answers, &groups, resamples, rng, values);
        let accuracy = answers.iter().filter(|a| a.right).count() as f64 / answers.len() as f64;
        let orders: Vec<_> = (0..RANDOM_ORDERS).map(|i| stream(seed, Purpose::RandomOrder, i)).collect();
        let by_chance = coverage_by_chance(&answers, orders.into_iter());
        let chance = |name: &str| match name {
            "coverage_at_80" => Some(by_chance[0]),
            "coverage_at_90" => Some(by_chance[1]),
            "coverage_at_95" => Some(by_chance[2]),
            "aurc" => Some(1.0 - accuracy),
            "excess_aurc" => Some(1.0 - accuracy - best_area(&answers)),
            name if name.starts_with("accuracy") => Some(accuracy),
            _ => None,
        };
        let figures = Selective::of(&answers).figures();
        let names = figures.iter().map(|(name, _)| (*name, chance(name)));
        let points = risk_coverage(&answers);
        let every = points.len().div_ceil(POINTS).max(1);
        let shown = |(i, _): &(usize, &RiskPoint)| (i + 1) % every == 0 || i + 1 == points.len();
        SelectiveFigures {
            score: score.word().to_string(),
            figures: Figure::list(names, figures.iter().map(|(_, value)| *value).collect(), bounds),
            risk_coverage: points.iter().enumerate().filter(shown).map(|(_, p)| *p).collect(),
        }
    };
    orders_of(classes).map(of_score).collect()
}

/// Scores that say something of predictions over `classes`: none of none, of two no normalised logit.
pub(super) fn orders_of(classes: usize) -> impl Iterator<Item = Sureness> {
    let says = move |score: &Sureness| classes > 2 || classes > 0 && *score != Sureness::NormalisedLogit;
    Sureness::ALL.into_iter().filter(says)
}

/// How sure each prediction is, and whether it is right.
pub(super) fn answers(predictions: &[&Prediction], score: Sureness) -> Vec<Answer> {
    let answer = |p: &&Prediction| Answer { confidence: score.of(&p.logits), right: p.predicted() == p.target };
    predictions.iter().map(answer).collect()
}

/// Areas under the risk–coverage curve that stand among the overall figures, of predictions over `classes`: two have no
/// normalised logit.
pub(super) fn overall_orders(classes: usize) -> impl Iterator<Item = (&'static str, Sureness)> {
    let all = [("aurc", Sureness::MaxProbability), ("aurc_normalised", Sureness::NormalisedLogit)];
    all.into_iter().take(if classes > 2 { 2 } else { 1 })
}
