//! Halves of the patients, each judged by what was fitted on the other.

use rand::seq::SliceRandom;

use crate::seed::{Purpose, stream};

/// Which half each patient is in, by one shuffle that is the same for every model: manifests may stand in an order that
/// says something, such as case, control, case, control.
#[derive(Clone, Debug)]
pub(super) struct Halves(Vec<usize>);

impl Halves {
    /// Of the patients with these numbers; as many in the one as in the other, or one more.
    pub fn of(groups: impl IntoIterator<Item = usize>) -> Self {
        let mut patients: Vec<usize> = groups.into_iter().collect();
        patients.sort_unstable();
        patients.dedup();
        let mut halves = vec![0; patients.last().map_or(0, |last| last + 1)];
        patients.shuffle(&mut stream(0, Purpose::Halves, 0));
        patients.iter().enumerate().for_each(|(place, &patient)| halves[patient] = place % 2);
        Self(halves)
    }

    /// 0 or 1, of one of those patients.
    pub fn half(&self, group: usize) -> usize {
        self.0[group]
    }

    /// For the patients of half 0 and 1: one and the same of `other` patients, else each from the other half.
    pub fn fit<T, R: Clone>(
        &self,
        own: &[T],
        other: Option<&[T]>,
        group: impl Fn(&T) -> usize,
        fit: impl Fn(&[&T]) -> R,
    ) -> [R; 2] {
        if let Some(other) = other {
            let fitted = fit(&other.iter().collect::<Vec<_>>());
            return [fitted.clone(), fitted];
        }
        let of_half =
            |wanted: usize| fit(&own.iter().filter(|row| self.half(group(row)) == wanted).collect::<Vec<_>>());
        [of_half(1), of_half(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_alike_whatever_the_manifests_order_and_none_sees_itself() {
        // Every second, third or fourth patient is a case; numbers may have gaps.
        for every in [2, 3, 4] {
            let halves = Halves::of((0..400).map(|i| 3 * i));
            let cases = |half: usize| (0..400).filter(|i| i % every == 0 && halves.half(3 * i) == half).count();
            let (one, other) = (cases(0) as f64, cases(1) as f64);
            assert!((one / (one + other) - 0.5).abs() < 0.1, "{every}: {one} {other}");
            assert_eq!((0..400).filter(|i| halves.half(3 * i) == 0).count(), 200);
        }
        let halves = Halves::of(0..9);
        let seen = halves.fit(
            &(0..9).collect::<Vec<usize>>(),
            None,
            |i| *i,
            |rows| rows.iter().map(|i| **i).collect::<Vec<_>>(),
        );
        assert!(seen.iter().enumerate().all(|(half, seen)| seen.iter().all(|&i| halves.half(i) != half)));
        assert_eq!(seen[0].len() + seen[1].len(), 9);
    }
}
