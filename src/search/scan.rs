//! The exact search: every row is looked at, a block at a time, blocks side by side.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::gallery::{Block, Gallery};
use crate::ops::products;

/// Queries that are compared with a block at once.
const QUERIES: usize = 1024;
/// Best rows that are kept at once, of all queries together.
const MOST_KEPT: usize = 1 << 22;

/// A row with its cosine. The better is the larger; of equals, the row that comes first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    /// Row of the index, from 0.
    pub row: usize,
    /// Cosine, or of late interaction the sum of several.
    pub score: f32,
}

impl Eq for Scored {}

impl PartialOrd for Scored {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scored {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // What is no number comes last.
        let numbers = (!self.score.is_nan()).cmp(&!other.score.is_nan());
        numbers.then(self.score.total_cmp(&other.score)).then(other.row.cmp(&self.row))
    }
}

/// The best rows so far.
pub(super) struct Best {
    most: usize,
    /// The worst of them first.
    kept: BinaryHeap<Reverse<Scored>>,
    /// What a row needs at least once as many are kept as there may be.
    least: f32,
}

impl Best {
    pub fn new(most: usize) -> Self {
        Self { most, kept: BinaryHeap::new(), least: f32::NEG_INFINITY }
    }

    pub fn offer(&mut self, scored: Scored) {
        if self.kept.len() < self.most {
            self.kept.push(Reverse(scored));
        } else if let Some(mut worst) = self.kept.peek_mut().filter(|worst| worst.0 < scored) {
            *worst = Reverse(scored);
        }
        if self.kept.len() == self.most {
            self.least = self.kept.peek().map_or(f32::NEG_INFINITY, |worst| worst.0.score);
        }
    }

    /// Offers the rows from `first` on. Most of them are below what is needed, which a few vector instructions tell of
    /// sixteen at once.
    fn offer_all(&mut self, first: usize, scores: &[f32]) {
        for (chunk, start) in scores.chunks(16).zip((first..).step_by(16)) {
            // Not numbers are above nothing, and below nothing either.
            if self.kept.len() == self.most && chunk.iter().all(|&score| score < self.least) {
                continue;
            }
            for (row, &score) in (start..).zip(chunk) {
                self.offer(Scored { row, score });
            }
        }
    }

    pub fn merge(mut self, other: Self) -> Self {
        other.kept.into_iter().for_each(|Reverse(scored)| self.offer(scored));
        self
    }

    /// The best one first.
    pub fn into_sorted(self) -> Vec<Scored> {
        self.kept.into_sorted_vec().into_iter().map(|Reverse(scored)| scored).collect()
    }
}

/// For each of `queries`, (queries, embed_dim) row after row, the `k` rows of `gallery` with the largest products, the
/// best one first. The same for any number of threads, and but for the last digit however the rows are cut into files.
///
/// # Errors
/// Vectors that cannot be read.
pub(super) fn scan(gallery: &Gallery, queries: &[f32], k: usize) -> Result<Vec<Vec<Scored>>> {
    let width = gallery.width();
    ensure!(queries.len().is_multiple_of(width), "{} numbers are no queries of width {width}", queries.len());
    let at_once = queries_at_once(k, gallery.rows()).min(QUERIES);
    let blocks = gallery.blocks();
    let mut found = Vec::new();
    for queries in queries.chunks(at_once * width) {
        let look = |best: Vec<Best>, block: &Block| {
            gallery.with_block(*block, |rows| Ok(compare(best, rows, queries, *block)))
        };
        found.extend(best_of(&blocks, (queries.len() / width, k), look)?);
    }
    Ok(found)
}

/// Of how many queries the best rows may be kept at once.
pub(super) fn queries_at_once(k: usize, rows: usize) -> usize {
    (MOST_KEPT / k.clamp(1, rows.max(1))).max(1)
}

/// The `k` best rows for each of so many queries, of blocks that `look` adds to the best so far, side by side.
pub(super) fn best_of<B: Sync>(
    blocks: &[B],
    (queries, k): (usize, usize),
    look: impl Fn(Vec<Best>, &B) -> Result<Vec<Best>> + Sync + Send,
) -> Result<Vec<Vec<Scored>>> {
    let none = || (0..queries).map(|_| Best::new(k)).collect::<Vec<_>>();
    let merge = |a: Vec<Best>, b: Vec<Best>| Ok(a.into_iter().zip(b).map(|(a, b)| a.merge(b)).collect());
    let best = blocks.par_iter().try_fold(none, look).try_reduce(none, merge)?;
    Ok(best.into_iter().map(Best::into_sorted).collect())
}

fn compare(mut best: Vec<Best>, rows: &[f32], queries: &[f32], block: Block) -> Vec<Best> {
    let mut scores = vec![0.0; best.len() * block.rows];
    products(queries, rows, rows.len() / block.rows, &mut scores);
    best.iter_mut().zip(scores.chunks(block.rows)).for_each(|(best, scores)| best.offer_all(block.first, scores));
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::gallery::Vectors;

    const WIDTH: usize = 7;

    /// Numbers from −1 to 1 that repeat, so that rows do.
    fn vectors(rows: usize) -> Vec<f32> {
        (0..rows * WIDTH).map(|i| ((i / WIDTH % 701 * 37 + i % WIDTH * 11) as f32 * 0.73).sin()).collect()
    }

    fn cut(rows: usize, parts: &[usize]) -> Gallery {
        let numbers = vectors(rows);
        let (mut parts_of, mut start) = (Vec::new(), 0);
        for &part in parts.iter().chain([&rows]) {
            let end = rows.min(start + part);
            let held = numbers[start * WIDTH..end * WIDTH].to_vec();
            parts_of.push((end - start, WIDTH, Vectors::Held(held)));
            start = end;
        }
        Gallery::of(parts_of).unwrap().unwrap()
    }

    #[test]
    fn the_best_rows_are_those_of_a_sort_however_rows_are_cut() {
        let (rows, queries) = (5000, vectors(9));
        let numbers = vectors(rows);
        for k in [1, 10, 701, 5000, 6000] {
            let best_of = |query: &[f32]| -> Vec<f32> {
                let term = |(a, b): (&f32, &f32)| f64::from(*a) * f64::from(*b);
                let dot = |row: &[f32]| row.iter().zip(query).map(term).sum::<f64>();
                let mut scores: Vec<f64> = numbers.chunks(WIDTH).map(dot).collect();
                scores.sort_by(|a, b| b.total_cmp(a));
                scores.into_iter().take(k).map(|score| score as f32).collect()
            };
            let expected: Vec<Vec<f32>> = queries.chunks(WIDTH).map(best_of).collect();
            let whole = scan(&cut(rows, &[]), &queries, k).unwrap();
            for (found, expected) in whole.iter().zip(&expected) {
                assert_eq!(found.len(), k.min(rows));
                for (hit, score) in found.iter().zip(expected) {
                    assert!((hit.score - score).abs() < 1e-5, "{hit:?}, not {score}");
                }
                // Rows are there once, and equals in their order.
                let mut seen: Vec<usize> = found.iter().map(|hit| hit.row).collect();
                assert!(found.is_sorted_by(|a, b| a > b));
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), found.len());
            }
            for parts in [&[1, 1024, 1025, 3][..], &[2500], &[10; 300]] {
                let found = scan(&cut(rows, parts), &queries, k).unwrap();
                let scores = |found: &[Vec<Scored>]| found.concat().iter().map(|hit| hit.score).collect::<Vec<_>>();
                for (a, b) in scores(&found).iter().zip(scores(&whole)) {
                    assert!((a - b).abs() < 1e-6, "{parts:?}: {a}, not {b}");
                }
            }
        }
        assert!(scan(&cut(10, &[]), &queries[1..], 1).is_err(), "no whole query");
    }

    #[test]
    fn what_is_no_number_comes_last() {
        let mut best = Best::new(2);
        let scores = [f32::NAN, 0.1, -f32::NAN, f32::NAN, 0.3, 0.2, f32::NAN];
        best.offer_all(0, &scores);
        assert_eq!(best.into_sorted().iter().map(|scored| scored.row).collect::<Vec<_>>(), [4, 5]);
        let mut best = Best::new(4);
        best.offer_all(0, &scores[..3]);
        assert_eq!(best.into_sorted()[0].row, 1);
    }

    #[test]
    fn threads_change_nothing() {
        let (gallery, queries) = (cut(4000, &[999, 1500]), vectors(3));
        let found = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| scan(&gallery, &queries, 100).unwrap())
        };
        assert_eq!(found(1), found(3));
    }
}
