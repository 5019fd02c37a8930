//! Steps in which rows meet those that are hard to tell from them.

use std::collections::{HashMap, VecDeque};

/// No row: a list is shorter than others.
pub const NO_ROW: u32 = u32::MAX;

/// Of each row a few others, the hardest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// (rows · each)
    pub rows: Vec<u32>,
    /// Others of a row at most.
    pub each: usize,
}

impl Neighbours {
    /// The neighbours of a row.
    pub fn of(&self, row: u32) -> impl Iterator<Item = u32> {
        let start = row as usize * self.each;
        let list = self.rows.get(start..start + self.each).unwrap_or_default();
        list.iter().copied().filter(|&other| other != NO_ROW)
    }
}

/// `rows` in an order in which each is followed, in its step, by those of its neighbours that have no place yet. Each
/// stands there as often as before.
pub(super) fn composed(rows: &[u32], step: usize, neighbours: &Neighbours) -> Vec<u32> {
    let mut places: HashMap<u32, VecDeque<usize>> = HashMap::new();
    rows.iter().enumerate().for_each(|(place, &row)| places.entry(row).or_default().push_back(place));
    let mut placed = vec![false; rows.len()];
    let mut order = Vec::with_capacity(rows.len());
    for (place, &row) in rows.iter().enumerate() {
        if placed[place] {
            continue;
        }
        placed[place] = true;
        order.push(row);
        for other in neighbours.of(row) {
            if order.len().is_multiple_of(step) {
                break;
            }
            while let Some(place) = places.get_mut(&other).and_then(VecDeque::pop_front) {
                if !placed[place] {
                    placed[place] = true;
                    order.push(other);
                    break;
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_meet_their_neighbours_and_none_is_lost() {
        let neighbours =
            Neighbours { rows: vec![3, 4, NO_ROW, NO_ROW, 0, 1, NO_ROW, NO_ROW, 0, NO_ROW, 1, 2], each: 2 };
        // Six rows, the third of which stands twice.
        let order = composed(&[0, 1, 2, 2, 3, 4, 5], 3, &neighbours);
        assert_eq!(order, [0, 3, 4, 1, 2, 2, 5]);
        assert_eq!(composed(&[5, 2, 1, 0], 3, &neighbours), [5, 1, 2, 0], "hardest first, as far as the step goes");
        assert_eq!(composed(&[1, 0, 5], 2, &Neighbours::default()), [1, 0, 5]);
    }
}
