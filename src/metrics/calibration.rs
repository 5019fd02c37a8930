//! Whether probabilities mean what they say: calibration errors, proper scores, temperature scaling, selective
//! accuracy.

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Bins of a reliability curve.
pub const BINS: usize = 15;

/// A prediction's confidence, and whether it was right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Answer {
    /// Probability of what was predicted, 0 to 1.
    pub confidence: f64,
    /// Whether it was right.
    pub right: bool,
}

/// One bin of a reliability curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Mean confidence of its predictions.
    pub confidence: f64,
    /// Share of them that are right.
    pub accuracy: f64,
    /// How many there are.
    pub count: usize,
}

impl Bin {
    fn of(answers: &[Answer]) -> Self {
        let n = answers.len() as f64;
        Self {
            confidence: answers.iter().map(|j| j.confidence).sum::<f64>() / n,
            accuracy: answers.iter().filter(|j| j.right).count() as f64 / n,
            count: answers.len(),
        }
    }
}

/// Bins of equal width over 0..1, those that hold anything; a confidence on a border belongs to the bin below, as in
/// torchmetrics.
pub fn equal_width(answers: &[Answer], bins: usize) -> Vec<Bin> {
    let mut members: Vec<Vec<Answer>> = vec![Vec::new(); bins];
    answers.iter().for_each(|j| members[bin_of(j.confidence, bins)].push(*j));
    members.iter().filter(|m| !m.is_empty()).map(|m| Bin::of(m)).collect()
}

pub(super) fn bin_of(confidence: f64, bins: usize) -> usize {
    ((confidence * bins as f64).ceil() as usize).saturating_sub(1).min(bins - 1)
}

/// The expected calibration error, over bins of equal width, that probabilities which mean just what they say would
/// show on predictions of these confidences, of which some are right by chance: the mean over draws. It is above 0, and
/// the more so the fewer predictions there are. NaN without draws.
pub fn error_floor(confidences: &[f64], bins: usize, draws: impl ExactSizeIterator<Item = impl Rng>) -> f64 {
    let placed: Vec<(usize, f64)> = confidences.iter().map(|&c| (bin_of(c, bins), c)).collect();
    let (draws_made, mut sum) = (draws.len() as f64, 0.0);
    for mut rng in draws {
        let mut gaps = vec![0.0f64; bins];
        for &(bin, confidence) in &placed {
            gaps[bin] += confidence - f64::from(u8::from(rng.random::<f64>() < confidence));
        }
        sum += gaps.iter().map(|gap| gap.abs()).sum::<f64>() / placed.len() as f64;
    }
    sum / draws_made
}

/// Bins of equal numbers of predictions, by confidence; where that does not divide, the first have one more, as
/// numpy.array_split cuts.
pub fn equal_mass(answers: &[Answer], bins: usize) -> Vec<Bin> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| a.confidence.total_cmp(&b.confidence));
    let (each, more) = (sorted.len() / bins, sorted.len() % bins);
    let mut rest = sorted.as_slice();
    let mut found = Vec::new();
    for i in 0..bins.min(sorted.len()) {
        let (head, tail) = rest.split_at(each + usize::from(i < more));
        found.push(Bin::of(head));
        rest = tail;
    }
    found
}

/// Expected calibration error: mean distance of confidence and accuracy, by predictions.
pub fn expected_error(bins: &[Bin]) -> f64 {
    let all: usize = bins.iter().map(|b| b.count).sum();
    bins.iter().map(|b| (b.confidence - b.accuracy).abs() * b.count as f64 / all as f64).sum()
}

/// Classwise calibration error: the mean over classes of the expected error of their probabilities, over bins of equal
/// width (Kull et al., arXiv 1910.12656). Of at least one row of probabilities with its target.
pub fn classwise_error(rows: &[(Vec<f64>, usize)], bins: usize) -> f64 {
    let classes = rows[0].0.len();
    let of_class = |k: usize| {
        let answer = |(p, target): &(Vec<f64>, usize)| Answer { confidence: p[k], right: *target == k };
        expected_error(&equal_width(&rows.iter().map(answer).collect::<Vec<_>>(), bins))
    };
    (0..classes).map(of_class).sum::<f64>() / classes as f64
}

/// Root mean square calibration error over bins of equal mass.
pub fn square_error(answers: &[Answer], bins: usize) -> f64 {
    let of_bin = |bin: &Bin| bin.count as f64 / answers.len() as f64 * (bin.confidence - bin.accuracy).powi(2);
    equal_mass(answers, bins).iter().map(of_bin).sum::<f64>().sqrt()
}

/// An interval for the true error around `debiased`, the [`debiased_error`], from [`square_error`] and its quantiles
/// over resamples, low and high. Luck lifts the square of the error of the data above the true one as much as that of
/// resamples above the data's: it is taken off twice (a basic bootstrap interval of the square). It holds `debiased`,
/// which few resamples may leave outside, and lies within 0 and 1.
pub fn without_luck(debiased: f64, error: f64, (low, high): (f64, f64)) -> (f64, f64) {
    let reflected = |bound: f64| (2.0 * error * error - bound * bound).max(0.0).sqrt();
    (reflected(high).min(debiased), reflected(low).max(debiased).min(1.0))
}

/// Root mean square calibration error over bins of equal mass, without the part that few predictions a bin add by luck
/// (Kumar, Liang and Ma, arXiv 1909.10155): 0 where luck explains all of it, NaN where fewer than two bins hold two
/// predictions, from which luck cannot be told.
pub fn debiased_error(answers: &[Answer], bins: usize) -> f64 {
    let of_bin = |bin: &Bin| {
        let (n, gap) = (bin.count as f64, bin.confidence - bin.accuracy);
        let luck = bin.accuracy * (1.0 - bin.accuracy) / (n - 1.0);
        n / answers.len() as f64 * (gap * gap - luck)
    };
    let mut bins = equal_mass(answers, bins);
    bins.retain(|bin| bin.count > 1);
    if bins.len() < 2 { f64::NAN } else { bins.iter().map(of_bin).sum::<f64>().max(0.0).sqrt() }
}

/// Maximum calibration error: the largest distance of any bin.
pub fn maximum_error(bins: &[Bin]) -> f64 {
    bins.iter().map(|b| (b.confidence - b.accuracy).abs()).fold(0.0, f64::max)
}

/// softmax of `logits` / `temperature`.
pub fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|z| ((z - highest) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// The first of the highest.
pub fn argmax(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

/// −ln of the target's probability at `temperature`, worked out from logits, so that it never is infinite.
pub fn negative_log_likelihood(logits: &[f64], target: usize, temperature: f64) -> f64 {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| ((z - highest) / temperature).exp()).sum();
    sum.ln() - (logits[target] - highest) / temperature
}

/// Σ over classes of (probability − what was so)², between 0 and 2: scikit-learn's with `scale_by_half=False`.
pub fn brier(probabilities: &[f64], target: usize) -> f64 {
    probabilities.iter().enumerate().map(|(k, p)| (p - f64::from(u8::from(k == target))).powi(2)).sum()
}

/// Between what a temperature is looked for: a fit that ends there found none.
pub const TEMPERATURES: std::ops::RangeInclusive<f64> = 0.01..=100.0;

/// The temperature that makes the mean [`negative_log_likelihood`] of `rows` (logits and target) least, within
/// [`TEMPERATURES`] (Guo et al., arXiv 1706.04599); 1 without rows.
pub fn fit_temperature<'a>(rows: impl IntoIterator<Item = (&'a [f64], usize)>) -> f64 {
    let rows: Vec<(&[f64], usize)> = rows.into_iter().collect();
    // In s = 1 / temperature the loss is convex: its slope is Σ (E[z] − z_target), and rises.
    let slope = |s: f64| -> f64 {
        rows.iter()
            .map(|(z, target)| {
                let p = softmax(z, 1.0 / s);
                p.iter().zip(*z).map(|(p, z)| p * z).sum::<f64>() - z[*target]
            })
            .sum()
    };
    if rows.is_empty() {
        return 1.0;
    }
    let (mut low, mut high) = ((1.0 / TEMPERATURES.end()).ln(), (1.0 / TEMPERATURES.start()).ln());
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if slope(middle.exp()) > 0.0 { high = middle } else { low = middle }
    }
    (-0.5 * (low + high)).exp()
}

/// Risk (share of wrong answers) when only the `coverage` most confident predictions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RiskPoint {
    /// Share of predictions that are answered.
    pub coverage: f64,
    /// Share of those that are wrong.
    pub risk: f64,
}

/// One point for each prediction more, the most confident first. Equal confidences count as if in random order.
pub fn risk_coverage(answers: &[Answer]) -> Vec<RiskPoint> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let (mut points, mut wrong) = (Vec::with_capacity(sorted.len()), 0.0);
    for tied in sorted.chunk_by(|a, b| a.confidence == b.confidence) {
        let each = tied.iter().filter(|j| !j.right).count() as f64 / tied.len() as f64;
        for _ in tied {
            wrong += each;
            let answered = (points.len() + 1) as f64;
            points.push(RiskPoint { coverage: answered / sorted.len() as f64, risk: wrong / answered });
        }
    }
    points
}

/// Area under the risk–coverage curve: mean risk over all coverages. A random order gives the error rate.
pub fn area_under_risk(points: &[RiskPoint]) -> f64 {
    points.iter().map(|p| p.risk).sum::<f64>() / points.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Purpose, stream};

    #[test]
    fn the_right_temperature_is_found_again() {
        // Targets drawn exactly as the softmax of z / 2.5 says: counts stand for probabilities.
        let z = [2.0, 0.5, -1.0];
        let counts = softmax(&z, 2.5).map_to_counts(100_000);
        let rows = counts.iter().enumerate().flat_map(|(k, &n)| std::iter::repeat_n((&z[..], k), n));
        assert!((fit_temperature(rows) - 2.5).abs() < 1e-3);
    }

    trait Counts {
        fn map_to_counts(&self, all: usize) -> Vec<usize>;
    }

    impl Counts for Vec<f64> {
        fn map_to_counts(&self, all: usize) -> Vec<usize> {
            self.iter().map(|p| (p * all as f64).round() as usize).collect()
        }
    }

    /// Of n coins that are each right half the time, the share that is right is off by √(1 / 2πn) on average.
    #[test]
    fn few_predictions_look_uncalibrated_however_good_they_are() {
        let floor = |n: usize| {
            error_floor(
                &vec![0.5; n],
                BINS,
                (0..4000).map(|i| stream(3, Purpose::Outcomes, i)).collect::<Vec<_>>().into_iter(),
            )
        };
        for n in [20, 2000] {
            let expected = (1.0 / (std::f64::consts::TAU * n as f64)).sqrt();
            assert!((floor(n) / expected - 1.0).abs() < 0.05, "{n}: {} {expected}", floor(n));
        }
        assert_eq!(error_floor(&[1.0; 9], BINS, [stream(0, Purpose::Outcomes, 0)].into_iter()), 0.0);
    }

    /// Of predictions that mean what they say, and of such that are all 0.1 too sure: the interval holds that about as
    /// often as it says, where percentiles of resamples' own debiased errors lie too high.
    #[test]
    fn the_interval_of_the_debiased_error_holds_the_true_one() {
        let trials = 200;
        let held = |too_sure: f64| {
            let (mut held, mut by_percentiles) = (0, 0);
            for trial in 0..trials {
                let mut rng = stream(trial, Purpose::Outcomes, 0);
                let answer = |_| {
                    let confidence = 0.3 + 0.7 * rng.random::<f64>();
                    Answer { confidence, right: rng.random::<f64>() < confidence - too_sure }
                };
                let answers: Vec<Answer> = (0..300).map(answer).collect();
                let groups: Vec<usize> = (0..300).collect();
                let values = |answers: &[Answer]| vec![square_error(answers, BINS), debiased_error(answers, BINS)];
                let rng = |i: u64| stream(trial, Purpose::Bootstrap, i);
                let bounds = crate::metrics::bootstrap::interval(&answers, &groups, 200, rng, values).unwrap();
                let holds = |(low, high): (f64, f64)| u32::from(low <= too_sure && too_sure <= high);
                let debiased = debiased_error(&answers, BINS);
                held += holds(without_luck(debiased, square_error(&answers, BINS), bounds[0]));
                by_percentiles += holds(bounds[1]);
            }
            (held, by_percentiles)
        };
        for too_sure in [0.0, 0.1] {
            let (held, by_percentiles) = held(too_sure);
            assert!(held >= 176, "{held} of {trials} at {too_sure}");
            assert!(too_sure > 0.0 || by_percentiles < 170, "{by_percentiles} of {trials}");
        }
    }

    #[test]
    fn an_interval_without_luck_holds_what_it_is_of() {
        // Resamples of hardly any luck, and of much.
        let (low, high) = without_luck(0.3, 0.3, (0.31, 0.4));
        assert!((low - 0.02f64.sqrt()).abs() < 1e-12 && high == 0.3, "{low} {high}");
        assert_eq!(without_luck(0.0, 0.2, (0.1, 0.2)).0, 0.0);
        assert_eq!(without_luck(0.9, 0.95, (0.0, 0.9)).1, 1.0);
        let (low, high) = without_luck(f64::NAN, 0.2, (0.1, 0.25));
        assert!(low < high, "{low} {high}");
    }

    #[test]
    fn a_sure_and_right_model_has_no_error() {
        let sure = vec![Answer { confidence: 1.0, right: true }; 7];
        assert_eq!(expected_error(&equal_width(&sure, BINS)), 0.0);
        assert_eq!(equal_mass(&sure, 3).iter().map(|b| b.count).collect::<Vec<_>>(), [3, 2, 2]);
        assert!(debiased_error(&sure, BINS).is_nan() && debiased_error(&sure, 3) == 0.0);
        let half: Vec<Answer> = (0..10).map(|i| Answer { confidence: 0.9, right: i % 2 == 0 }).collect();
        assert!((maximum_error(&equal_width(&half, BINS)) - 0.4).abs() < 1e-12);
        assert!((area_under_risk(&risk_coverage(&half)) - 0.5).abs() < 1e-12, "equal confidences say nothing");
    }
}
