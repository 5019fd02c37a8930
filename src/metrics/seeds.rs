//! A figure of several runs that differ by their seed, with what seeds and patients add to it by chance: patients are
//! drawn with replacement, and what other seeds would give from Student's t, as in [`super::hierarchical`].

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::quantile;
use super::counted::Counted;
use super::students_t::{self, drawn, mean, students_t, variance};

/// Mean of a figure over seeds, and where it may be by chance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean over seeds.
    pub value: f64,
    /// Standard deviation over seeds; nothing of one seed.
    pub deviation: Option<f64>,
    /// 95 % interval over seeds and patients together, within what the figure can be as all of these.
    pub interval: Option<(f64, f64)>,
    /// The same over seeds, by Student's t: these patients, other shots.
    pub over_seeds: Option<(f64, f64)>,
    /// The same over patients: these shots, other patients.
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
    let by_run = |times: &[f64]| -> [Vec<f64>; 5] {
        let figures: Vec<[f64; 5]> = runs.iter().map(|run| run.figures(times)).collect();
        std::array::from_fn(|k| figures.iter().map(|f| f[k]).collect())
    };
    let values = by_run(&once);
    let resamples = if patients < 2 { 0 } else { resamples };
    // Of one seed it is not known what another would give.
    let of_seeds = students_t(runs.len() as f64 - 1.0);
    let errors = values.each_ref().map(|v| if v.len() > 1 { (variance(v) / v.len() as f64).sqrt() } else { 0.0 });
    let draw = |number: usize| {
        let mut rng = rng(number as u64);
        let mut times = vec![0.0; patients];
        (0..patients).for_each(|_| times[rng.random_range(0..patients)] += 1.0);
        let other_seeds = of_seeds.as_ref().map_or(0.0, |t| drawn(t, &mut rng));
        let under = by_run(&times);
        std::array::from_fn::<_, 5, _>(|k| {
            let by_patients = mean(&under[k]);
            [by_patients + errors[k] * other_seeds, by_patients]
        })
    };
    let draws: Vec<[[f64; 2]; 5]> = (0..resamples).into_par_iter().map(draw).collect();
    let spread = |k: usize| {
        let possible = |(low, high): (f64, f64)| (low.clamp(0.0, Counted::MOST[k]), high.clamp(0.0, Counted::MOST[k]));
        let bounds = |of: usize| {
            let mut drawn: Vec<f64> = draws.iter().map(|d| d[k][of]).filter(|v| v.is_finite()).collect();
            drawn.sort_by(f64::total_cmp);
            (!drawn.is_empty()).then(|| possible((quantile(&drawn, 0.025), quantile(&drawn, 0.975))))
        };
        Spread {
            value: mean(&values[k]),
            deviation: (runs.len() > 1).then(|| variance(&values[k]).sqrt()),
            interval: bounds(0),
            over_seeds: students_t::interval(&values[k]).map(possible),
            over_patients: bounds(1),
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
        // Unlike seeds: of eight that are 0.4 or 0.6 the mean has a deviation of 0.107 / √8, and Student's t of 7
        // degrees of freedom is beyond ±2.365 in one of twenty draws.
        let unlike: Vec<Counted> = (0..8).map(|i| run(100, if i % 2 == 0 { 40 } else { 60 })).collect();
        let unlike = accuracy(&unlike);
        let of_seeds = unlike.deviation.unwrap() / 8f64.sqrt();
        assert!((half(unlike.over_seeds) - 2.364_624 * of_seeds).abs() < 1e-6, "{unlike:?}");
        assert!(half(unlike.interval) > half(unlike.over_patients) && half(unlike.interval) > half(unlike.over_seeds));
        let one = accuracy(&[run(100, 50)]);
        assert_eq!((one.deviation, one.over_seeds), (None, None));
        assert_eq!(one.interval, one.over_patients);
        // Two seeds say little, of a share no more than that it is one.
        let two = accuracy(&[run(100, 90), run(100, 100)]);
        let (low, high) = two.over_seeds.unwrap();
        assert!((low - (0.95 - 12.706_205 * 0.05)).abs() < 1e-6 && high == 1.0, "{two:?}");
        let (low, high) = two.interval.unwrap();
        assert!((0.0..0.5).contains(&low) && high == 1.0, "{two:?}");
    }
}
