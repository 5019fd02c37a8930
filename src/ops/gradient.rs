//! The gradient of one weight.

use std::collections::BTreeMap;

use candle_core::{Device, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;

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

    /// The gradients of all rows that have one, as they came.
    pub(super) fn numbers(&self) -> &[f32] {
        &self.values
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
}
