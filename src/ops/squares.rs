//! Sums of squares: of a gradient for its norm, of weights and features to see that all are finite.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::gradient::Gradient;
use super::simd::vectorised;

impl Gradient {
    /// Sum of squares, added in f64 in an order that does not depend on the number of threads.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn squared_sum(&self) -> Result<f64> {
        match self {
            Self::Dense(grad) => squared_sum(grad),
            Self::Rows(rows) => Ok(squared_sum_of(rows.numbers())),
        }
    }

    /// [`Self::squared_sum`] without waiting for it.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn begin_squared_sum(&self) -> Result<SquaredSum> {
        match self {
            Self::Dense(grad) => begin_squared_sum(grad),
            Self::Rows(_) => self.squared_sum().map(SquaredSum::Known),
        }
    }
}

/// Sum of squares of all numbers, added in f64 in an order that does not depend on the number of threads.
///
/// # Errors
/// Whatever the device reports.
pub fn squared_sum(x: &Tensor) -> Result<f64> {
    begin_squared_sum(x)?.read()
}

fn begin_squared_sum(x: &Tensor) -> Result<SquaredSum> {
    if cuda::has_kernels(x) {
        return cuda::squares(x).map(SquaredSum::Waiting);
    }
    if !cpu::has_kernels(x) {
        return x.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar().map(SquaredSum::Known);
    }
    let x = x.contiguous()?;
    Ok(SquaredSum::Known(squared_sum_of(&cpu::read(&x)?)))
}

/// A sum of squares.
#[derive(Clone, Debug)]
pub enum SquaredSum {
    /// It is there.
    Known(f64),
    /// A GPU works it out while the program goes on: two f32 that add up to it in f64; the first is not finite where it
    /// is not.
    Waiting(Tensor),
}

impl SquaredSum {
    /// The sum.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn read(&self) -> Result<f64> {
        Ok(Self::read_all([self])?.into_iter().sum())
    }

    /// All of them; the GPU is waited for once.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn read_all<'a>(sums: impl IntoIterator<Item = &'a Self>) -> Result<Vec<f64>> {
        let sums: Vec<&Self> = sums.into_iter().collect();
        let waiting = sums.iter().filter_map(|sum| if let Self::Waiting(pair) = sum { Some(pair) } else { None });
        let waiting: Vec<&Tensor> = waiting.collect();
        let pairs = if waiting.is_empty() { Vec::new() } else { Tensor::cat(&waiting, 0)?.to_vec1::<f32>()? };
        let mut pairs = pairs.as_chunks::<2>().0.iter().map(|&[high, low]| {
            // Of what is infinite the rest is not a number, which says no less.
            f64::from(high) + f64::from(low)
        });
        let number = |sum: &Self| match sum {
            Self::Known(sum) => *sum,
            Self::Waiting(_) => pairs.next().unwrap_or(f64::NAN),
        };
        Ok(sums.into_iter().map(number).collect())
    }
}

/// Numbers whose squares are added up by one task.
pub(super) const SQUARES_BLOCK: usize = 1 << 16;

fn squared_sum_of(x: &[f32]) -> f64 {
    x.par_chunks(SQUARES_BLOCK).map(squares_of_block).collect::<Vec<f64>>().iter().sum()
}

vectorised! {
    fn squares_of_block(x: &[f32]) -> f64 {
        let mut squares = Squares::default();
        squares.add(x);
        squares.sum()
    }
}

/// A sum of squares in f64, in eight running sums: a single one would wait for each addition.
#[derive(Default)]
pub(super) struct Squares {
    lanes: [f64; 8],
    rest: f64,
}

impl Squares {
    /// Adds those of `x`. Only the last piece may have a length that is not a multiple of eight: the order of additions
    /// would depend on the pieces.
    #[inline(always)]
    pub fn add(&mut self, x: &[f32]) {
        let (eights, rest) = x.as_chunks::<8>();
        for eight in eights {
            self.lanes.iter_mut().zip(eight).for_each(|(l, &v)| *l += f64::from(v) * f64::from(v));
        }
        self.rest += rest.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    }

    #[inline(always)]
    pub fn sum(&self) -> f64 {
        self.lanes.iter().sum::<f64>() + self.rest
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn sums_of_squares_are_read_together_in_their_order() {
        let waiting = |pair: [f32; 2]| SquaredSum::Waiting(Tensor::new(&pair, &Device::Cpu).unwrap());
        let sums = [SquaredSum::Known(1.5), waiting([3.0, 0.25]), SquaredSum::Known(0.0), waiting([7.0, -0.5])];
        assert_eq!(SquaredSum::read_all(&sums).unwrap(), [1.5, 3.25, 0.0, 6.5]);
        assert!(!waiting([f32::INFINITY, f32::NAN]).read().unwrap().is_finite());
        let grad = Gradient::Dense(Tensor::new(&[3f32, -4.0], &Device::Cpu).unwrap());
        assert_eq!(grad.begin_squared_sum().unwrap().read().unwrap(), grad.squared_sum().unwrap());
        assert_eq!(grad.squared_sum().unwrap(), 25.0);
    }
}
