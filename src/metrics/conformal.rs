//! Conformal prediction: sets that hold what is so with a probability that was asked for, whatever the model is worth,
//! where patients to come are like those that it was calibrated on.
//!
//! Rows of one patient are not exchangeable with each other, patients are: a patient's rows share one weight (Lee,
//! Barber and Willett, arXiv 2306.06342), so that the promise is of a row of a patient to come. With one row a patient
//! it is split-conformal prediction as it is known.

use super::calibration::argmax;
use crate::words::words;

words!(
    /// How unlike what is so a class looks, from the probabilities; less fits better.
    Score {
        /// 1 − its probability (Sadinle, Lei and Wasserman, arXiv 1609.00451).
        Lac = "lac",
        /// The probability of all that is at least as probable (Romano, Sesia and Candès, arXiv 2006.02544), without
        /// randomisation.
        Aps = "aps",
        /// The same with [`PENALTY`] for each rank beyond [`UNPUNISHED`] (Angelopoulos et al., arXiv 2009.14193).
        Raps = "raps",
    }
);

/// RAPS' penalty for a rank, fixed beforehand.
pub const PENALTY: f64 = 0.1;
/// Ranks that RAPS does not punish.
pub const UNPUNISHED: usize = 1;

impl Score {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lac, Self::Aps, Self::Raps];

    /// Of every class. Of equal probabilities the first class stands before the others.
    pub fn of(self, probabilities: &[f64]) -> Vec<f64> {
        if self == Self::Lac {
            return probabilities.iter().map(|p| 1.0 - p).collect();
        }
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        let (mut scores, mut sum) = (vec![0.0; order.len()], 0.0);
        for (rank, class) in (1..).zip(order) {
            sum += probabilities[class];
            if rank == scores.len() {
                // Of all there is 1, which rounding would make many numbers of.
                sum = 1.0;
            }
            let beyond = (rank as f64 - UNPUNISHED as f64).max(0.0);
            scores[class] = if self == Self::Raps { sum + PENALTY * beyond } else { sum };
        }
        scores
    }

    /// Which classes a set holds: those whose score is at most their threshold, by APS and RAPS also the most probable
    /// one. Without randomisation its score is its whole probability, and the surest rows would have empty sets.
    pub fn set(self, probabilities: &[f64], thresholds: &[f64]) -> Vec<bool> {
        let first = (self != Self::Lac).then(|| argmax(probabilities));
        let holds = |(class, (score, threshold)): (usize, (f64, &f64))| score <= *threshold || first == Some(class);
        self.of(probabilities).into_iter().zip(thresholds).enumerate().map(holds).collect()
    }
}

/// A score of what was so, with whose it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Calibrator {
    /// The score.
    pub score: f64,
    /// Number of the patient.
    pub group: usize,
}

/// How often each number stands there.
fn counts(groups: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut counts = Vec::new();
    for group in groups {
        if counts.len() <= group {
            counts.resize(group + 1, 0);
        }
        counts[group] += 1;
    }
    counts
}

/// The lowest score that what is so exceeds in a row of a patient to come with probability `alpha` at most: with N
/// patients, each of weight 1 / (N + 1) shared by its rows, and one to come, of infinite score. Infinite where there
/// are too few.
pub fn quantile(calibrators: &[Calibrator], alpha: f64) -> f64 {
    let rows = counts(calibrators.iter().map(|c| c.group));
    let patients = rows.iter().filter(|n| **n > 0).count();
    let mut sorted = calibrators.to_vec();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
    let (mut weight, wanted) = (0.0, (1.0 - alpha) * (patients + 1) as f64);
    for calibrator in sorted {
        weight += 1.0 / rows[calibrator.group] as f64;
        if weight >= wanted - 1e-9 {
            return calibrator.score;
        }
    }
    f64::INFINITY
}

/// Mean of what rows came to, each patient counting once; NaN without rows. (value, patient) of each row.
pub fn mean_over_patients(rows: impl Iterator<Item = (f64, usize)> + Clone) -> f64 {
    let counts = counts(rows.clone().map(|(_, group)| group));
    let patients = counts.iter().filter(|n| **n > 0).count();
    rows.map(|(value, group)| value / counts[group] as f64).sum::<f64>() / patients as f64
}

/// What an image with several findings came to: probability of each, whether it has it (`None`: nobody knows), whose.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    /// Of each finding.
    pub probabilities: Vec<f64>,
    /// Whether the image has it.
    pub has: Vec<Option<bool>>,
    /// Number of the patient.
    pub group: usize,
}

impl Findings {
    /// The share of its findings that "at least this probable" leaves out; `None` without any.
    pub fn missed(&self, threshold: f64) -> Option<f64> {
        let (own, missed) = (self.own().count(), self.own().filter(|p| **p < threshold).count());
        (own > 0).then(|| missed as f64 / own as f64)
    }

    /// Probabilities of those that it has.
    fn own(&self) -> impl Iterator<Item = &f64> {
        self.has.iter().zip(&self.probabilities).filter(|(has, _)| **has == Some(true)).map(|(_, p)| p)
    }

    /// How many are at least this probable.
    pub fn size(&self, threshold: f64) -> usize {
        self.probabilities.iter().filter(|p| **p >= threshold).count()
    }
}

/// The highest threshold that misses a share of `alpha` of the findings of an image that has any, of a patient to come,
/// at most, on average: conformal risk control (Angelopoulos et al., arXiv 2208.02814), patients counting once. Images
/// without findings, of which none can be missed, would make the promise empty where most are such: they do not count.
/// 0, which misses none, where there are too few.
pub fn risk_threshold(images: &[Findings], alpha: f64) -> f64 {
    let ill = || images.iter().filter(|image| image.own().next().is_some());
    let patients = counts(ill().map(|i| i.group)).iter().filter(|n| **n > 0).count() as f64;
    let holds = |threshold: f64| {
        let of = |image: &Findings| Some((image.missed(threshold)?, image.group));
        let risk = mean_over_patients(ill().filter_map(of));
        (patients * risk + 1.0) / (patients + 1.0) <= alpha + 1e-12
    };
    // What is missed changes only where a threshold passes a finding's probability, and never falls.
    let mut steps: Vec<f64> = images.iter().flat_map(Findings::own).copied().collect();
    steps.sort_by(f64::total_cmp);
    let above = steps.partition_point(|&threshold| holds(threshold));
    if above == 0 { 0.0 } else { steps[above - 1] }
}

#[cfg(test)]
mod tests {
    use rand::seq::SliceRandom;
    use rand::{Rng, RngExt};

    use super::*;
    use crate::seed::{Purpose, stream};

    fn calibrators(scores: &[f64]) -> Vec<Calibrator> {
        scores.iter().enumerate().map(|(group, &score)| Calibrator { score, group }).collect()
    }

    #[test]
    fn the_quantile_counts_the_patient_to_come() {
        // ⌈(9 + 1) · 0.9⌉ = 9: the largest of nine; of eight none is enough.
        let nine: Vec<f64> = (1..=9).map(f64::from).collect();
        assert_eq!(quantile(&calibrators(&nine), 0.1), 9.0);
        assert_eq!(quantile(&calibrators(&nine[..8]), 0.1), f64::INFINITY);
        assert_eq!(quantile(&calibrators(&nine), 0.5), 5.0);
        // A patient with a hundred rows counts as one.
        let mut many = calibrators(&nine);
        many.extend((0..99).map(|_| Calibrator { score: 1.0, group: 0 }));
        assert_eq!(quantile(&many, 0.5), 5.0);
    }

    /// A patient's rows: what a model that is often wrong says of each, and what is so.
    struct Patient(Vec<(Vec<f64>, usize)>);

    fn patients(n: usize, rng: &mut impl Rng) -> Vec<Patient> {
        let row = |hardness: f64, rng: &mut dyn Rng| {
            let target = (rng.random::<f64>() * 5.0) as usize;
            let weight = |k: usize, rng: &mut dyn Rng| {
                (2.0 * rng.random::<f64>() + if k == target { 1.5 - hardness } else { 0.0 }).exp()
            };
            let weights: Vec<f64> = (0..5).map(|k| weight(k, rng)).collect();
            let sum: f64 = weights.iter().sum();
            (weights.into_iter().map(|w| w / sum).collect::<Vec<f64>>(), target)
        };
        let one = |_| {
            let (rows, hardness) = (1 + (rng.random::<f64>() * 6.0) as usize, 2.0 * rng.random::<f64>());
            Patient((0..rows).map(|_| row(hardness, rng)).collect())
        };
        (0..n).map(one).collect()
    }

    /// Over 1,000 random splits of the patients, one row of one judged patient is held by its set as often as promised:
    /// between 1 − α and 1 − α + 1 / (N + 1), within the binomial interval of a thousand draws. (It may be more where
    /// many scores are equal, as those of classes that stand last are by APS and RAPS: at 0.2 the threshold is below
    /// these.)
    #[test]
    fn sets_hold_what_is_so_as_often_as_promised_over_a_thousand_splits_of_patients() {
        let mut rng = stream(5, Purpose::Split, 0);
        let mut all = patients(120, &mut rng);
        for (alpha, score) in [(0.1, Score::Lac), (0.2, Score::Aps), (0.2, Score::Raps)] {
            let mut held = 0;
            for _ in 0..1000 {
                all.shuffle(&mut rng);
                let (calibrated_on, judged) = all.split_at(60);
                let scores = calibrated_on.iter().enumerate().flat_map(|(group, patient)| {
                    patient.0.iter().map(move |(p, target)| Calibrator { score: score.of(p)[*target], group })
                });
                let threshold = quantile(&scores.collect::<Vec<_>>(), alpha);
                let rows = &judged[0].0;
                let (p, target) = &rows[(rng.random::<f64>() * rows.len() as f64) as usize];
                held += usize::from(score.of(p)[*target] <= threshold);
            }
            let share = held as f64 / 1000.0;
            let error = 1.96 * (alpha * (1.0 - alpha) / 1000.0f64).sqrt();
            let (low, high) = (1.0 - alpha - error, 1.0 - alpha + 1.0 / 61.0 + error);
            assert!((low..=high).contains(&share), "{} at {alpha}: {share}, not in {low}..{high}", score.word());
        }
    }

    /// A threshold for each class, from those that have it, holds as often in each class by itself.
    #[test]
    fn sets_by_class_hold_each_class_as_often_as_promised_over_a_thousand_splits_of_patients() {
        let mut rng = stream(7, Purpose::Split, 0);
        let mut all = patients(300, &mut rng);
        let alpha = 0.2;
        for score in Score::ALL {
            let (mut held, mut rows) = ([0.0f64; 5], [0.0f64; 5]);
            for _ in 0..1000 {
                all.shuffle(&mut rng);
                let (calibrated_on, judged) = all.split_at(200);
                let of_class = |class: usize| {
                    let rows = calibrated_on.iter().enumerate().flat_map(|(group, patient)| {
                        patient
                            .0
                            .iter()
                            .filter(|(_, target)| *target == class)
                            .map(move |(p, target)| Calibrator { score: score.of(p)[*target], group })
                    });
                    quantile(&rows.collect::<Vec<_>>(), alpha)
                };
                let thresholds: Vec<f64> = (0..5).map(of_class).collect();
                let (p, target) = &judged[0].0[0];
                rows[*target] += 1.0;
                held[*target] += f64::from(u8::from(score.of(p)[*target] <= thresholds[*target]));
            }
            for (held, rows) in held.iter().zip(rows) {
                let share = held / rows;
                // Five classes and three scores: three standard errors. Equal scores only add.
                let error = 3.0 * (alpha * (1.0 - alpha) / rows).sqrt();
                assert!(rows > 100.0 && share >= 1.0 - alpha - error, "{}: {share} of {rows}", score.word());
                assert!(score != Score::Lac || share <= 1.0 - alpha + 0.02 + error, "{share} of {rows}");
            }
        }
    }

    /// The same of findings that are missed, where two in three images have none.
    #[test]
    fn findings_are_missed_no_oftener_than_promised_over_a_thousand_splits_of_patients() {
        let mut rng = stream(6, Purpose::Split, 0);
        let mut all: Vec<Vec<Findings>> = (0..200)
            .map(|_| {
                let hardness = rng.random::<f64>();
                let mut image = || {
                    let normal = rng.random::<f64>() < 2.0 / 3.0;
                    let has: Vec<bool> = (0..4).map(|_| !normal && rng.random::<f64>() < 0.4).collect();
                    let p = |has: &bool, r: f64| if *has { 1.0 - hardness * r } else { r };
                    let probabilities = has.iter().map(|has| p(has, rng.random())).collect();
                    Findings { probabilities, has: has.into_iter().map(Some).collect(), group: 0 }
                };
                (0..3).map(|_| image()).collect()
            })
            .collect();
        let alpha = 0.15;
        let (mut missed, mut judged_with) = (0.0, 0.0);
        for _ in 0..1000 {
            all.shuffle(&mut rng);
            let (calibrated_on, judged) = all.split_at(100);
            let images = calibrated_on
                .iter()
                .enumerate()
                .flat_map(|(group, images)| images.iter().map(move |image| Findings { group, ..image.clone() }));
            let threshold = risk_threshold(&images.collect::<Vec<_>>(), alpha);
            let of_patient: Vec<f64> = judged[0].iter().filter_map(|image| image.missed(threshold)).collect();
            if !of_patient.is_empty() {
                missed += of_patient.iter().sum::<f64>() / of_patient.len() as f64;
                judged_with += 1.0;
            }
        }
        let missed = missed / judged_with;
        assert!(judged_with > 400.0 && missed <= alpha + 0.02 && missed > alpha - 0.06, "{missed} of {judged_with}");
        assert_eq!(risk_threshold(&all[0], 0.01), 0.0, "one patient is not enough");
    }
}
