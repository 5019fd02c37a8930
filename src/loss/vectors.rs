//! Vectors of rows, of as many numbers each.

use std::fmt;

use crate::digest::ContentHash;

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

    /// The product of row `a` with row `b` of another table.
    pub(super) fn product(&self, a: usize, (other, b): (&Self, usize)) -> f64 {
        self.row(a).iter().zip(other.row(b)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
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
