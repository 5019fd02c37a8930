//! Whether two settings differ by more than chance, where seeds and patients are both but a sample: seeds are drawn
//! with replacement and, for both settings alike, patients.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::bootstrap::quantile;

/// A figure of one run as sums: for each of its parts (such as the directions of retrieval), of each patient by number
/// the sum over its rows and how many these are. The figure is the mean over parts of all sums / all rows.
pub type PatientSums = Vec<Vec<(f64, f64)>>;

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

/// The figure where patient i counts `times[i]` times.
fn value(sums: &PatientSums, times: &[f64]) -> f64 {
    let of_part = |part: &Vec<(f64, f64)>| {
        let (sum, rows) =
            part.iter().zip(times).fold((0.0, 0.0), |(sum, rows), ((s, n), t)| (sum + t * s, rows + t * n));
        sum / rows
    };
    sums.iter().map(of_part).sum::<f64>() / sums.len() as f64
}

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
    ours: &[&PatientSums],
    theirs: &[&PatientSums],
    resamples: usize,
    rng: impl Fn(u64) -> ChaCha8Rng,
) -> Option<Compared> {
    let patients = ours.iter().chain(theirs).flat_map(|sums| sums.iter()).map(Vec::len).max().unwrap_or(0);
    if ours.len() < 2 || theirs.len() < 2 || patients < 2 || resamples == 0 {
        return None;
    }
    let values = |runs: &[&PatientSums], times: &[f64]| runs.iter().map(|r| value(r, times)).collect::<Vec<f64>>();
    let once = vec![1.0; patients];
    let (a, b) = (values(ours, &once), values(theirs, &once));
    let (mut both, mut of_patients) = (Vec::with_capacity(resamples), Vec::with_capacity(resamples));
    for number in 0..resamples {
        let mut rng = rng(number as u64);
        let mut times = vec![0.0; patients];
        (0..patients).for_each(|_| times[rng.random_range(0..patients)] += 1.0);
        // A mean of n drawn seeds varies by (n − 1) / n too little: its distance from the mean of all is stretched.
        let mut drawn = |values: &[f64]| {
            let n = values.len();
            let some: Vec<f64> = (0..n).map(|_| values[rng.random_range(0..n)]).collect();
            let all = mean(values);
            all + (n as f64 / (n - 1) as f64).sqrt() * (mean(&some) - all)
        };
        let (a, b) = (values(ours, &times), values(theirs, &times));
        let (difference, fixed) = (drawn(&a) - drawn(&b), mean(&a) - mean(&b));
        if difference.is_finite() {
            both.push(difference);
            of_patients.push(fixed);
        }
    }
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
    fn run(values: impl Iterator<Item = f64>) -> PatientSums {
        vec![values.map(|v| (v, 1.0)).collect()]
    }

    fn compared(a: &[PatientSums], b: &[PatientSums], seed: u64) -> Compared {
        let (a, b): (Vec<&PatientSums>, Vec<&PatientSums>) = (a.iter().collect(), b.iter().collect());
        compare(&a, &b, 400, |i| stream(seed, Purpose::Bootstrap, i)).unwrap()
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
        let one: Vec<&PatientSums> = one.iter().collect();
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
            let mut setting = || -> Vec<PatientSums> {
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
        let lucky: Vec<PatientSums> = (0..8).map(|_| run((0..30).map(|i| if i == 0 { 9.0 } else { 0.0 }))).collect();
        let none: Vec<PatientSums> = (0..8).map(|_| run((0..30).map(|_| 0.0))).collect();
        let gain = compared(&lucky, &none, 0);
        assert!(gain.difference > 0.2 && gain.p > 0.05 && gain.seeds_needed.is_none(), "{gain:?}");
    }
}
