//! What products in bf16 read: matrices in f32, which are rounded on the way, or in bf16.

use std::ops::Deref;

use candle_core::{Result, Storage, Tensor};

use super::cpu::{self, Either, EitherNumbers};
use super::gemm::{Factor, Layout};
use super::round::widen;

/// A CPU tensor (rows, columns), readable while this lives.
pub(super) struct Operand<S> {
    numbers: EitherNumbers<S>,
    layout: Layout,
}

/// The numbers of a contiguous matrix in f32 or bf16.
pub(super) fn read(x: &Tensor) -> Result<Operand<impl Deref<Target = Storage> + '_>> {
    let (rows, columns) = x.dims2()?;
    Ok(Operand { numbers: cpu::read_either(x)?, layout: Layout::plain(rows, columns) })
}

impl<S: Deref<Target = Storage>> Operand<S> {
    /// Row after row.
    pub fn line(&self) -> Either<'_> {
        self.numbers.get()
    }

    /// The matrix.
    pub fn plain(&self) -> Factor<'_> {
        match self.line() {
            Either::F32(numbers) => self.layout.of(numbers).into(),
            Either::Bf16(numbers) => self.layout.of(numbers).into(),
        }
    }

    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    pub fn columns(&self) -> usize {
        self.layout.columns
    }
}

impl Either<'_> {
    /// Writes the numbers from `start` on to `to`.
    pub fn widen(&self, start: usize, to: &mut [f32]) {
        match self {
            Self::F32(numbers) => to.copy_from_slice(&numbers[start..start + to.len()]),
            Self::Bf16(numbers) => widen(&numbers[start..start + to.len()], to),
        }
    }
}
