//! How the rows of a batch fall to its items.

use std::sync::Arc;

/// Item i of a batch has rows `starts[i]..starts[i + 1]`: texts of various lengths lie one after the other, with no
/// padding between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    starts: Arc<[usize]>,
}

impl Segments {
    /// Items of these many rows.
    pub fn of_lengths(lengths: impl IntoIterator<Item = usize>) -> Self {
        let ends = lengths.into_iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(ends).collect() }
    }

    /// `items` items of `length` rows each.
    pub fn even(items: usize, length: usize) -> Self {
        Self::of_lengths(std::iter::repeat_n(length, items))
    }

    /// How many items there are.
    pub fn items(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many rows there are in all.
    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// First row of each item.
    pub fn firsts(&self) -> &[usize] {
        &self.starts[..self.items()]
    }

    /// First row and number of rows of each item.
    pub fn spans(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.starts.windows(2).map(|w| (w[0], w[1] - w[0]))
    }

    /// The part of `numbers`, `width` a row, that belongs to each item.
    pub(super) fn split<'a>(&self, numbers: &'a [f32], width: usize) -> Vec<&'a [f32]> {
        self.spans().map(|(start, length)| &numbers[start * width..(start + length) * width]).collect()
    }

    /// [`Self::split`] for writing.
    pub(super) fn split_mut<'a, T>(&self, mut numbers: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
        let mut parts = Vec::with_capacity(self.items());
        for (_, length) in self.spans() {
            let (part, rest) = numbers.split_at_mut(length * width);
            parts.push(part);
            numbers = rest;
        }
        parts
    }
}
