//! 95 % intervals by resampling groups (patients): queries of one patient are not independent.

use rand::{Rng, RngExt};
use rayon::prelude::*;

/// Percentile interval of each figure: `figures` is called on the queries of groups drawn with replacement, and gives
/// always as many. `groups[i]` is the group of item i, numbered from 0. `None` below two groups or without resamples.
/// Draws in which a figure does not exist (an AUROC without positives) do not count for it.
pub fn interval<T: Copy + Sync>(
    items: &[T],
    groups: &[usize],
    resamples: usize,
    rng: impl Fn(u64) -> rand_chacha::ChaCha8Rng + Sync,
    figures: impl Fn(&[T]) -> Vec<f64> + Sync,
) -> Option<Vec<(f64, f64)>> {
    let mut members: Vec<Vec<T>> = vec![Vec::new(); groups.iter().max().map_or(0, |g| g + 1)];
    for (item, &group) in items.iter().zip(groups) {
        members[group].push(*item);
    }
    // A patient all of whose reports count for another has none.
    members.retain(|m| !m.is_empty());
    if members.len() < 2 || resamples == 0 {
        return None;
    }
    let draw = |i: usize| figures(&resample(&members, &mut rng(i as u64)));
    let draws: Vec<Vec<f64>> = (0..resamples).into_par_iter().map(draw).collect();
    let bounds = |k: usize| {
        let mut values: Vec<f64> = draws.iter().map(|d| d[k]).filter(|v| !v.is_nan()).collect();
        values.sort_by(f64::total_cmp);
        match values.is_empty() {
            true => (f64::NAN, f64::NAN),
            false => (quantile(&values, 0.025), quantile(&values, 0.975)),
        }
    };
    Some((0..draws[0].len()).map(bounds).collect())
}

fn resample<T: Copy>(members: &[Vec<T>], rng: &mut impl Rng) -> Vec<T> {
    (0..members.len()).flat_map(|_| members[rng.random_range(0..members.len())].iter().copied()).collect()
}

/// Linear interpolation between order statistics, as numpy's default. `sorted` is not empty.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let (low, t) = (position.floor() as usize, position.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * t
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Purpose, stream};

    #[test]
    fn covers_the_mean_about_as_often_as_it_says() {
        // 40 groups of one: the interval of a mean of ±1 should be close to ±1.96 / √40.
        let items: Vec<f64> = (0..40).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let groups: Vec<usize> = (0..40).collect();
        let mean = |x: &[f64]| vec![x.iter().sum::<f64>() / x.len() as f64];
        let (low, high) = interval(&items, &groups, 2000, |i| stream(1, Purpose::Bootstrap, i), mean).unwrap()[0];
        let half = 1.96 / 40f64.sqrt();
        assert!((low + half).abs() < 0.05 && (high - half).abs() < 0.05, "{low} {high}");
        // Whole groups move together: four groups of ten make a wider interval than forty of one.
        let groups: Vec<usize> = (0..40).map(|i| if items[i] > 0.0 { i / 20 } else { 2 + i / 20 }).collect();
        let (low4, high4) = interval(&items, &groups, 2000, |i| stream(1, Purpose::Bootstrap, i), mean).unwrap()[0];
        assert!(high4 - low4 > 2.0 * (high - low));
        assert_eq!(interval(&items, &[0; 40], 100, |i| stream(1, Purpose::Bootstrap, i), mean), None);
    }
}
