//! Whether two settings differ by more than chance, where seeds and patients are both but a sample: seeds are drawn
//! with replacement and, for both settings alike, patients.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::quantile;
use super::calibration::{Answer, BINS, area_under_risk, equal_width, expected_error, risk_coverage};
use super::classification::auroc;

/// A figure of one run, kept so that it can be worked out anew where some patients count more often than others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatientFigure {
    /// For each part (such as the directions of retrieval), of each patient by number the sum over its rows and how
    /// many these are: the mean over parts of all sums / all rows.
    Mean(Vec<Vec<(f64, f64)>>),
    /// The area under the risk–coverage curve: of each answer how sure it is, whether it is right, its patient.
    Aurc(Vec<PatientRow>),
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
            Self::Aurc(rows) | Self::Ece(rows) => most(rows),
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
    /// Seeds of each setting with which a difference like this one would be more than chance; `None` where none are
    /// enough, for these patients alone are too few.
    pub seeds_needed: Option<usize>,
}

/// Two standard errors, nearly.
const Z_975: f64 = 1.959_964;

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sum of squares / (n − 1).
fn variance(values: &[f64]) -> f64 {
    let middle = mean(values);
    values.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

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
    let of_resample = |number: usize| {
        let mut rng = rng(number as u64);
        let mut times = vec![0; patients];
        (0..patients).for_each(|_| times[rng.random_range(0..patients)] += 1);
        // A mean of n drawn seeds varies by (n − 1) / n too little: its distance from the mean of all is stretched.
        let mut drawn = |values: &[f64]| {
            let n = values.len();
            let some: Vec<f64> = (0..n).map(|_| values[rng.random_range(0..n)]).collect();
            let all = mean(values);
            all + (n as f64 / (n - 1) as f64).sqrt() * (mean(&some) - all)
        };
        let (a, b) = (values(ours, &times), values(theirs, &times));
        (drawn(&a) - drawn(&b), mean(&a) - mean(&b))
    };
    let drawn: Vec<(f64, f64)> = (0..resamples).into_par_iter().map(of_resample).collect();
    let (mut both, of_patients): (Vec<f64>, Vec<f64>) =
        drawn.into_iter().filter(|(difference, _)| difference.is_finite()).unzip();
    if both.len() < 2 {
        return None;
    }
    let difference = mean(&a) - mean(&b);
    let n = both.len() as f64;
    let tail = |inside: fn(&&f64) -> bool| both.iter().filter(inside).count() as f64 / n;
    let p = (2.0 * tail(|d| **d <= 0.0).min(tail(|d| **d >= 0.0))).clamp(1.0 / n, 1.0);
    // (s₁² + s₂²) / n + that of patients must be below (difference / 1.96)².
    let left = (difference / Z_975).powi(2) - variance(&of_patients);
    let seeds = ((variance(&a) + variance(&b)) / left).ceil().max(2.0);
    both.sort_by(f64::total_cmp);
    Some(Compared {
        difference,
        interval: (quantile(&both, 0.025), quantile(&both, 0.975)),
        p,
        seeds_needed: (left > 0.0 && seeds < 1e6).then_some(seeds as usize),
    })
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
        // Variances 2 and 2 in a difference of 1: 4 · 1.96².
        let small = compared(&runs([0.0, 2.0]), &runs([1.0, 3.0]), 0);
        assert_eq!((small.difference, small.seeds_needed), (-1.0, Some(16)));
        assert!(small.p > 0.2 && small.interval.0 < -1.0 && small.interval.1 > 0.0, "{small:?}");
        let large = compared(&runs([0.0, 2.0]), &runs([20.0, 22.0]), 0);
        assert!(large.p < 0.01 && large.interval.1 < -10.0 && large.seeds_needed == Some(2), "{large:?}");
        assert_eq!(compared(&runs([1.0, 2.0]), &runs([1.0, 2.0]), 0).seeds_needed, None);
        let one = [run([1.0, 2.0].into_iter())];
        let one: Vec<&PatientFigure> = one.iter().collect();
        assert_eq!(compare(&one, &one, 100, |i| stream(0, Purpose::Bootstrap, i)), None);
    }

    /// Settings that are the same are told apart about as seldom as promised; a few patients who gain all of it are
    /// no gain for others, whatever the number of seeds.
    #[test]
    fn chance_is_called_chance() {
        let mut rng = stream(1, Purpose::Outcomes, 0);
        let mut noise = |scale: f64| scale * ((0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0);
        let mut found = 0;
        for trial in 0..200 {
            let patients: Vec<f64> = (0..50).map(|_| noise(1.0)).collect();
            let mut setting = || -> Vec<PatientFigure> {
                let seeds: Vec<f64> = (0..5).map(|_| noise(0.3)).collect();
                seeds
                    .iter()
                    .map(|s| run(patients.iter().map(|p| p + s + noise(0.5)).collect::<Vec<_>>().into_iter()))
                    .collect()
            };
            let (a, b) = (setting(), setting());
            found += usize::from(compared(&a, &b, trial).p < 0.05);
        }
        assert!((2..=30).contains(&found), "{found} of 200");
        let lucky: Vec<PatientFigure> = (0..8).map(|_| run((0..30).map(|i| if i == 0 { 9.0 } else { 0.0 }))).collect();
        let none: Vec<PatientFigure> = (0..8).map(|_| run((0..30).map(|_| 0.0))).collect();
        let gain = compared(&lucky, &none, 0);
        assert!(gain.difference > 0.2 && gain.p > 0.05 && gain.seeds_needed.is_none(), "{gain:?}");
    }
}
