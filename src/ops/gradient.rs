//! The gradient of one weight.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::simd::vectorised;

/// The gradient of a weight.
#[derive(Clone, Debug)]
pub enum Gradient {
    /// A number for each of the weight's.
    Dense(Tensor),
    /// Of a table of which only some rows were looked up: the others' gradient is 0.
    Rows(RowGradient),
}

/// The rows of a (rows, width) table that have a gradient.
#[derive(Clone, Debug)]
pub struct RowGradient {
    /// Where in `values` the gradient of a row stands.
    at: BTreeMap<u32, usize>,
    values: Vec<f32>,
    shape: (usize, usize),
    device: Device,
}

impl RowGradient {
    /// 0 for a table of this shape.
    pub fn zero(shape: (usize, usize), device: &Device) -> Self {
        Self { at: BTreeMap::new(), values: Vec::new(), shape, device: device.clone() }
    }

    /// Adds row i of `grads` to that of `rows[i]`, in the order given.
    pub fn add(&mut self, rows: &[u32], grads: &[f32]) {
        let width = self.shape.1;
        for (row, grad) in rows.iter().zip(grads.chunks_exact(width)) {
            let next = self.values.len();
            let start = *self.at.entry(*row).or_insert(next);
            if start == next {
                self.values.extend_from_slice(grad);
            } else {
                self.values[start..start + width].iter_mut().zip(grad).for_each(|(v, g)| *v += g);
            }
        }
    }

    /// The gradient of this row; `None` where it is 0.
    pub(super) fn row(&self, row: usize) -> Option<&[f32]> {
        let start = *self.at.get(&u32::try_from(row).ok()?)?;
        Some(&self.values[start..start + self.shape.1])
    }

    /// Every row of a dense gradient of a table.
    ///
    /// # Errors
    /// It is none of a table.
    pub fn of_all(grad: &Tensor) -> Result<Self> {
        let shape = grad.dims2()?;
        let rows: Vec<u32> = (0..shape.0 as u32).collect();
        let mut all = Self::zero(shape, grad.device());
        all.add(&rows, &grad.flatten_all()?.to_vec1::<f32>()?);
        Ok(all)
    }

    /// The rows that have a gradient, in order.
    pub fn rows(&self) -> Vec<u32> {
        self.at.keys().copied().collect()
    }

    /// The gradients of `rows` one after the other, 0 for those that have none.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn dense_rows(&self, rows: &[u32]) -> Result<Tensor> {
        let width = self.shape.1;
        let mut numbers = vec![0f32; rows.len() * width];
        for (numbers, &row) in numbers.chunks_exact_mut(width).zip(rows) {
            if let Some(grad) = self.row(row as usize) {
                numbers.copy_from_slice(grad);
            }
        }
        Tensor::from_vec(numbers, rows.len() * width, &self.device)
    }

    fn to_dense(&self) -> Result<Tensor> {
        let (rows, width) = self.shape;
        let mut all = vec![0f32; rows * width];
        for (&row, &start) in &self.at {
            all[row as usize * width..][..width].copy_from_slice(&self.values[start..start + width]);
        }
        Tensor::from_vec(all, self.shape, &self.device)
    }
}

impl Gradient {
    /// A number for each of the weight's.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn into_dense(self) -> Result<Tensor> {
        match self {
            Self::Dense(grad) => Ok(grad),
            Self::Rows(rows) => rows.to_dense(),
        }
    }

    /// Shape of the weight.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Dense(grad) => grad.shape().clone(),
            Self::Rows(rows) => rows.shape.into(),
        }
    }

    /// The sum with `other`, in place where the device can.
    pub(super) fn plus(self, other: Tensor) -> Result<Self> {
        let (sum, other) = (cpu::widened(self.into_dense()?)?, cpu::widened(other)?);
        if !cpu::has_kernels(&sum) || !sum.is_contiguous() {
            return (sum + other).map(Self::Dense);
        }
        let other = other.contiguous()?;
        let addend = cpu::read(&other)?;
        cpu::write(&sum, |sum| {
            let blocks = sum.par_chunks_mut(cpu::BLOCK).zip(addend.par_chunks(cpu::BLOCK));
            blocks.for_each(|(sum, addend)| sum.iter_mut().zip(addend).for_each(|(s, a)| *s += a));
        })?;
        Ok(Self::Dense(sum))
    }

    /// Sum of squares, added in f64 in an order that does not depend on the number of threads.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn squared_sum(&self) -> Result<f64> {
        match self {
            Self::Dense(grad) => squared_sum(grad),
            Self::Rows(rows) => Ok(squared_sum_of(&rows.values)),
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
