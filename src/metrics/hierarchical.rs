//! Whether two settings differ by more than chance, where seeds and patients are both but a sample: patients are drawn
//! with replacement, for both settings alike, and beside them what other seeds would give. A handful of seeds, drawn
//! with replacement, varies far less than seeds do: their part is drawn from Student's t, with Welch's degrees of
//! freedom, so that without an influence of patients this is Welch's test.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{Answer, BINS, area_under_risk, equal_width, expected_error, risk_coverage};
use super::classification::auroc;
use super::selective::threshold_for;
use super::students_t::{drawn, mean, students_t, t_975, variance};

/// A figure of one run, kept so that it can be worked out anew where some patients count more often than others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatientFigure {
    /// For each part (such as the directions of retrieval), of each patient by number the sum over its rows and how
    /// many these are: the mean over parts of all sums / all rows.
    Mean(Vec<Vec<(f64, f64)>>),
    /// The area under the risk–coverage curve: of each answer how sure it is, whether it is right, its patient.
    Aurc(Vec<PatientRow>),
    /// The share of the answers that can be given with 90 % of these right, the surest first.
    CoverageAt90(Vec<PatientRow>),
    /// The expected calibration error, over bins of equal width, of answers with their probabilities.
    Ece(Vec<PatientRow>),
    /// The mean over classes, as far as they have both, of the AUROC of rows that are of it or not.
    Auroc(Vec<Vec<PatientRow>>),
}

/// A score, whether what it stands for is so, and the number of the patient.
pub type PatientRow = (f64, bool, usize);

impl PatientFigure {
    /// Of these patients, each once.
    pub fn value(&self) -> f64 {
        self.where_each_counts(&vec![1; self.patients()])
    }

    /// Where patient i counts `times[i]` times. NaN where nothing counts.
    fn where_each_counts(&self, times: &[usize]) -> f64 {
        let answers = |rows: &[PatientRow]| -> Vec<Answer> {
            let repeated = |&(confidence, right, patient): &PatientRow| {
                std::iter::repeat_n(Answer { confidence, right }, times[patient])
            };
            rows.iter().flat_map(repeated).collect()
        };
        match self {
            Self::Mean(parts) => {
                let of_part = |part: &Vec<(f64, f64)>| {
                    let each = part.iter().zip(times).map(|((sum, rows), &t)| (t as f64 * sum, t as f64 * rows));
                    let (sum, rows) = each.fold((0.0, 0.0), |(sum, rows), (s, n)| (sum + s, rows + n));
                    sum / rows
                };
                mean(&parts.iter().map(of_part).collect::<Vec<_>>())
            }
            Self::Aurc(rows) => area_under_risk(&risk_coverage(&answers(rows))),
            Self::CoverageAt90(rows) => threshold_for(&answers(rows), 0.9).map_or(0.0, |threshold| threshold.coverage),
            Self::Ece(rows) => expected_error(&equal_width(&answers(rows), BINS)),
            Self::Auroc(classes) => {
                let of_class = |rows: &Vec<PatientRow>| {
                    let (scores, positive): (Vec<f64>, Vec<bool>) =
                        answers(rows).into_iter().map(|a| (a.confidence, a.right)).unzip();
                    let both = positive.contains(&true) && positive.contains(&false);
                    both.then(|| auroc(&scores, &positive))
                };
                mean(&classes.iter().filter_map(of_class).collect::<Vec<_>>())
            }
        }
    }

    /// How many patients there are.
    fn patients(&self) -> usize {
        let most = |rows: &[PatientRow]| rows.iter().map(|(.., patient)| patient + 1).max().unwrap_or(0);
        match self {
            Self::Mean(parts) => parts.iter().map(Vec::len).max().unwrap_or(0),
            Self::Aurc(rows) | Self::CoverageAt90(rows) | Self::Ece(rows) => most(rows),
            Self::Auroc(classes) => classes.iter().map(|rows| most(rows)).max().unwrap_or(0),
        }
    }
}

/// How one setting differs from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// Mean over seeds of the one minus that of the other.
    pub difference: f64,
    /// 95 % interval over seeds and patients.
    pub interval: (f64, f64),
    /// Two-sided: how often a difference of 0 would look so.
    pub p: f64,
    /// Seeds of each setting with which a difference like this one would be more than chance in four of five studies
    /// (80 % power); `None` where none are enough, for these patients alone are too few.
    pub seeds_needed: Option<usize>,
}

/// Two standard errors, nearly.
const Z_975: f64 = 1.959_964;
/// What is exceeded in one of five draws.
const Z_80: f64 = 0.841_621;

/// Compares the runs of two settings, an entry a seed, on the same patients. `None` below two seeds of either, below
/// two patients, or without resamples.
pub fn compare(
    ours: &[&PatientFigure],
    theirs: &[&PatientFigure],
    resamples: usize,
    rng: impl Fn(u64) -> ChaCha8Rng + Sync,
) -> Option<Compared> {
    let patients = ours.iter().chain(theirs).map(|figure| figure.patients()).max().unwrap_or(0);
    if ours.len() < 2 || theirs.len() < 2 || patients < 2 || resamples == 0 {
        return None;
    }
    let values = |runs: &[&PatientFigure], times: &[usize]| {
        runs.iter().map(|r| r.where_each_counts(times)).collect::<Vec<f64>>()
    };
    let once = vec![1; patients];
    let (a, b) = (values(ours, &once), values(theirs, &once));
    let (of_a, of_b) = (variance(&a) / a.len() as f64, variance(&b) / b.len() as f64);
    let of_seeds = students_t(welch(&[(of_a, a.len()), (of_b, b.len())]))?;
    let of_resample = |number: usize| {
        let mut rng = rng(number as u64);
        let mut times = vec![0; patients];
        (0..patients).for_each(|_| times[rng.random_range(0..patients)] += 1);
        let by_patients = mean(&values(ours, &times)) - mean(&values(theirs, &times));
        (by_patients + (of_a + of_b).sqrt() * drawn(&of_seeds, &mut rng), by_patients)
    };
    let draws: Vec<(f64, f64)> = (0..resamples).into_par_iter().map(of_resample).collect();
    let (mut both, of_patients): (Vec<f64>, Vec<f64>) =
        draws.into_iter().filter(|(difference, _)| difference.is_finite()).unzip();
    if both.len() < 2 {
        return None;
    }
    let n = both.len();
    let beyond = |inside: fn(&&f64) -> bool| both.iter().filter(inside).count() as f64;
    let p = (2.0 * (beyond(|d| **d <= 0.0).min(beyond(|d| **d >= 0.0)) + 1.0) / (n + 1) as f64).min(1.0);
    both.sort_by(f64::total_cmp);
    // The bounds between which 0 lies where p is above 0.05.
    let cut = ((0.025 * (n + 1) as f64) as usize).max(1);
    let difference = mean(&a) - mean(&b);
    Some(Compared {
        difference,
        interval: (both[cut - 1], both[n - cut]),
        p,
        seeds_needed: seeds_needed(difference, variance(&a) + variance(&b), variance(&of_patients)),
    })
}

/// Degrees of freedom of a sum of means, from the variance of each and how many values it is of (Welch and
/// Satterthwaite).
fn welch(parts: &[(f64, usize)]) -> f64 {
    let all: f64 = parts.iter().map(|(variance, _)| variance).sum();
    let each = parts.iter().map(|(variance, n)| (variance / all).powi(2) / (n - 1) as f64).sum::<f64>();
    // Where nothing varies any will do.
    if all > 0.0 { 1.0 / each } else { 1.0 }
}

/// Seeds of each setting with which `difference` would be more than chance with a probability of 80 %, from the sum of
/// the settings' variances over seeds and the difference's variance over patients.
fn seeds_needed(difference: f64, over_seeds: f64, over_patients: f64) -> Option<usize> {
    let left = (difference / (Z_975 + Z_80)).powi(2) - over_patients;
    let at_least = (over_seeds / left).ceil().max(2.0);
    if left <= 0.0 || at_least >= 1e6 {
        return None;
    }
    // Of few seeds the bound is that of Student's t.
    let enough = |n: &usize| {
        let bound = t_975(2.0 * (*n as f64 - 1.0));
        let patients = (Z_975 + Z_80).powi(2) * over_patients;
        (bound + Z_80).powi(2) * over_seeds / *n as f64 + patients <= difference * difference
    };
    (at_least as usize..).take(1000).find(enough)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Purpose, stream};

    /// One part, a row a patient.
    fn run(values: impl Iterator<Item = f64>) -> PatientFigure {
        PatientFigure::Mean(vec![values.map(|v| (v, 1.0)).collect()])
    }

    fn compared(a: &[PatientFigure], b: &[PatientFigure], seed: u64) -> Compared {
        let (a, b): (Vec<&PatientFigure>, Vec<&PatientFigure>) = (a.iter().collect(), b.iter().collect());
        compare(&a, &b, 400, |i| stream(seed, Purpose::Bootstrap, i)).unwrap()
    }

    #[test]
    fn a_patient_that_counts_twice_counts_as_two() {
        let rows = vec![(0.9, true, 0), (0.7, false, 1), (0.7, true, 2), (0.2, false, 2), (0.4, true, 1)];
        let others: Vec<PatientRow> = rows.iter().map(|row| (1.0 - row.0, !row.1, row.2)).collect();
        let written_out = vec![(0.9, true, 0), (0.7, true, 1), (0.7, true, 2), (0.2, false, 3), (0.2, false, 4)];
        let figures = [
            (PatientFigure::Mean(vec![vec![(0.9, 1.0), (1.1, 2.0), (0.9, 2.0)]]), 2.7 / 5.0),
            (PatientFigure::Aurc(rows.clone()), PatientFigure::Aurc(written_out).value()),
            // Of five answers the surest three are right.
            (PatientFigure::CoverageAt90(rows.clone()), 3.0 / 5.0),
            (PatientFigure::Ece(rows.clone()), (0.1 + 2.0 * 0.3 + 2.0 * 0.2) / 5.0),
            (PatientFigure::Auroc(vec![rows, others]), 1.0),
        ];
        for (figure, expected) in figures {
            let value = figure.where_each_counts(&[1, 0, 2]);
            assert!((value - expected).abs() < 1e-12, "{figure:?}: {value}, not {expected}");
        }
        let one_sided = vec![(0.5, true, 0)];
        assert!(PatientFigure::Auroc(vec![one_sided]).value().is_nan());
    }

    #[test]
    fn seeds_that_it_would_take_follow_from_their_spread() {
        let runs = |values: [f64; 2]| values.map(|v| run((0..40).map(|_| v)));
        // Variances 2 and 2 in a difference of 1: 4 · (2.00 + 0.84)², of 62 degrees of freedom.
        let small = compared(&runs([0.0, 2.0]), &runs([1.0, 3.0]), 0);
        assert_eq!((small.difference, small.seeds_needed), (-1.0, Some(33)));
        assert!(small.p > 0.2 && small.interval.0 < -1.0 && small.interval.1 > 0.0, "{small:?}");
        let large = compared(&runs([0.0, 2.0]), &runs([20.0, 22.0]), 0);
        assert!(large.p < 0.05 && large.interval.1 < -10.0 && large.seeds_needed == Some(2), "{large:?}");
        assert_eq!(compared(&runs([1.0, 2.0]), &runs([1.0, 2.0]), 0).seeds_needed, None);
        let one = [run([1.0, 2.0].into_iter())];
        let one: Vec<&PatientFigure> = one.iter().collect();
        assert_eq!(compare(&one, &one, 100, |i| stream(0, Purpose::Bootstrap, i)), None);
    }

    /// Settings that are the same are told apart as seldom as promised, of how few seeds so ever; a few patients who
    /// gain all of it are no gain for others, whatever the number of seeds.
    #[test]
    fn chance_is_called_chance() {
        let mut rng = stream(1, Purpose::Outcomes, 0);
        let mut noise = |scale: f64| scale * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0);
        for n in [2, 3, 5] {
            let mut found = 0;
            for trial in 0..400 {
                let patients: Vec<f64> = (0..50).map(|_| noise(1.0)).collect();
                let mut setting = || -> Vec<PatientFigure> {
                    let seeds: Vec<f64> = (0..n).map(|_| noise(0.3)).collect();
                    seeds
                        .iter()
                        .map(|s| run(patients.iter().map(|p| p + s + noise(0.5)).collect::<Vec<_>>().into_iter()))
                        .collect()
                };
                let (a, b) = (setting(), setting());
                let compared = compared(&a, &b, trial);
                let apart = compared.interval.0 > 0.0 || compared.interval.1 < 0.0;
                assert_eq!(apart, compared.p < 0.05, "{compared:?}");
                found += usize::from(apart);
            }
            assert!(found <= 32, "{found} of 400 by {n} seeds");
            assert!(n == 2 || found >= 6, "{found} of 400 by {n} seeds");
        }
        let lucky: Vec<PatientFigure> = (0..8).map(|_| run((0..30).map(|i| if i == 0 { 9.0 } else { 0.0 }))).collect();
        let none: Vec<PatientFigure> = (0..8).map(|_| run((0..30).map(|_| 0.0))).collect();
        let gain = compared(&lucky, &none, 0);
        assert!(gain.difference > 0.2 && gain.p > 0.05 && gain.seeds_needed.is_none(), "{gain:?}");
    }
}
