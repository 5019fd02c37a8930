//! Neighbours that are worked on together.

use std::ops::Range;

/// Neighbours among items of these costs, each of several kinds: as many together as cost no more than `most` of any
/// kind, or one alone.
pub fn within<const KINDS: usize>(
    costs: impl IntoIterator<Item = [usize; KINDS]>,
    most: [usize; KINDS],
) -> Vec<Range<usize>> {
    let (mut groups, mut sums) = (Vec::<Range<usize>>::new(), [0; KINDS]);
    for (i, cost) in costs.into_iter().enumerate() {
        let more: [usize; KINDS] = std::array::from_fn(|kind| sums[kind] + cost[kind]);
        match groups.last_mut().filter(|_| more.iter().zip(&most).all(|(more, most)| more <= most)) {
            Some(group) => (group.end, sums) = (i + 1, more),
            None => {
                groups.push(i..i + 1);
                sums = cost;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_come_together_while_every_bound_lets_them() {
        let costs = [1000, 1000, 100, 3000, 1, 1, 1].map(|cost| [cost, 1]);
        let sizes = |most| within(costs, [2048, most]).iter().map(ExactSizeIterator::len).collect::<Vec<_>>();
        assert_eq!(sizes(1024), [2, 1, 1, 3]);
        assert_eq!(sizes(2), [2, 1, 1, 2, 1]);
        assert_eq!(sizes(1), [1; 7]);
        assert_eq!(within([[2], [2], [1]], [4]), [0..2, 2..3]);
        assert!(within([], [4]).is_empty());
    }
}
