//! Vectors of rows, of as many numbers each.

use std::fmt;

use crate::digest::ContentHash;
use crate::ops::products_on_all;

/// One a row, one after the other.
#[derive(Clone, PartialEq)]
pub struct Vectors {
    numbers: Vec<f32>,
    width: usize,
}

impl Vectors {
    /// Of (rows · width) numbers.
    pub fn new(numbers: Vec<f32>, width: usize) -> Self {
        Self { numbers, width }
    }

    /// The vector of a row.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.numbers[row * self.width..(row + 1) * self.width]
    }

    /// How many there are.
    pub(super) fn rows(&self) -> usize {
        self.numbers.len() / self.width.max(1)
    }

    /// The products of `rows` with `others` of another table, (rows · others), on all threads.
    pub(super) fn products(&self, rows: &[u32], (table, others): (&Self, &[u32])) -> Vec<f32> {
        let picked = |table: &Self, rows: &[u32]| -> Vec<f32> {
            rows.iter().flat_map(|&row| table.row(row as usize).iter().copied()).collect()
        };
        let mut found = vec![0.0; rows.len() * others.len()];
        products_on_all(&picked(self, rows), &picked(table, others), self.width.max(1), &mut found);
        found
    }
}

impl fmt::Debug for Vectors {
    /// By a hash: ranks compare what they know as text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = ContentHash::default();
        bits.field(self.numbers.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        write!(f, "{} vectors of {}: {}", self.rows(), self.width, bits.hex())
    }
}
