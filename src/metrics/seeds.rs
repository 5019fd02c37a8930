//! A figure of several runs that differ by their seed, with what seeds and patients add to it by chance.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::quantile;
use super::counted::Counted;

/// Mean of a figure over seeds, and where it may be by chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean over seeds.
    pub value: f64,
    /// Standard deviation over seeds; nothing of one seed.
    pub deviation: Option<f64>,
    /// 95 % interval where seeds and patients are drawn together.
    pub interval: Option<(f64, f64)>,
    /// The same where only seeds are drawn: these patients, other shots.
    pub over_seeds: Option<(f64, f64)>,
    /// The same where only patients are drawn: these shots, other patients.
    pub over_patients: Option<(f64, f64)>,
}

/// Of `runs`, one a seed, over patients numbered below `patients`, an entry a figure of [`Counted::figures`].
pub fn spreads(
    runs: &[Counted],
    patients: usize,
    resamples: usize,
    rng: impl Fn(u64) -> ChaCha8Rng + Sync,
) -> Vec<Spread> {
    let once = vec![1.0; patients];
    let values: Vec<[f64; 5]> = runs.iter().map(|run| run.figures(&once)).collect();
    let resamples = if patients < 2 { 0 } else { resamples };
    let n = runs.len() as f64;
    let draw = |number: usize| {
        let mut rng = rng(number as u64);
        let mut times = vec![0.0; patients];
        (0..patients).for_each(|_| times[rng.random_range(0..patients)] += 1.0);
        let drawn: Vec<usize> = (0..runs.len()).map(|_| rng.random_range(0..runs.len())).collect();
        // A mean of n drawn seeds varies by (n − 1) / n too little: its distance from the mean of all is stretched.
        let stretch = if runs.len() > 1 { (n / (n - 1.0)).sqrt() } else { 0.0 };
        let of = |values: &[[f64; 5]], k: usize| {
            let all = values.iter().map(|v| v[k]).sum::<f64>() / n;
            let some = drawn.iter().map(|&i| values[i][k]).sum::<f64>() / n;
            (all, all + stretch * (some - all))
        };
        let under: Vec<[f64; 5]> = runs.iter().map(|run| run.figures(&times)).collect();
        std::array::from_fn::<_, 5, _>(|k| {
            let (patients, both) = of(&under, k);
            [both, of(&values, k).1, patients]
        })
    };
    let draws: Vec<[[f64; 3]; 5]> = (0..resamples).into_par_iter().map(draw).collect();
    let spread = |k: usize| {
        let bounds = |of: usize| {
            let mut drawn: Vec<f64> = draws.iter().map(|d| d[k][of]).filter(|v| v.is_finite()).collect();
            drawn.sort_by(f64::total_cmp);
            (!drawn.is_empty()).then(|| (quantile(&drawn, 0.025), quantile(&drawn, 0.975)))
        };
        let value = values.iter().map(|v| v[k]).sum::<f64>() / n;
        let squares = values.iter().map(|v| (v[k] - value).powi(2)).sum::<f64>();
        let several = runs.len() > 1;
        Spread {
            value,
            deviation: several.then(|| (squares / (n - 1.0)).sqrt()),
            interval: bounds(0),
            over_seeds: bounds(1).filter(|_| several),
            over_patients: bounds(2),
        }
    };
    (0..5).map(spread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Purpose, stream};

    /// Of `patients`, one row each, of which `right` are right.
    fn run(patients: usize, right: usize) -> Counted {
        let logits: Vec<Vec<f64>> = (0..patients).map(|i| vec![1.0, if i < right { 0.0 } else { 2.0 }]).collect();
        Counted::of(&logits, &vec![0; patients], &(0..patients).collect::<Vec<_>>())
    }

    #[test]
    fn seeds_and_patients_each_add_their_part() {
        let accuracy = |runs: &[Counted]| spreads(runs, 100, 2000, |i| stream(1, Purpose::Bootstrap, i))[0];
        let half = |bounds: Option<(f64, f64)>| bounds.map(|(low, high)| (high - low) / 2.0).unwrap();
        // Alike seeds: only patients vary, by √(p (1 − p) / n).
        let alike = accuracy(&[run(100, 50), run(100, 50)]);
        assert_eq!((alike.value, alike.deviation, half(alike.over_seeds)), (0.5, Some(0.0), 0.0));
        assert!((half(alike.over_patients) - 1.96 * 0.05).abs() < 0.01, "{alike:?}");
        assert_eq!(alike.interval, alike.over_patients);
        // Unlike seeds: of eight that are 0.4 or 0.6 the mean has a deviation of 0.107 / √8.
        let unlike: Vec<Counted> = (0..8).map(|i| run(100, if i % 2 == 0 { 40 } else { 60 })).collect();
        let unlike = accuracy(&unlike);
        let of_seeds = unlike.deviation.unwrap() / 8f64.sqrt();
        assert!((half(unlike.over_seeds) - 1.96 * of_seeds).abs() < 0.01, "{unlike:?}");
        assert!(half(unlike.interval) > half(unlike.over_patients) && half(unlike.interval) > half(unlike.over_seeds));
        let one = accuracy(&[run(100, 50)]);
        assert_eq!((one.deviation, one.over_seeds), (None, None));
        assert_eq!(one.interval, one.over_patients);
    }
}
