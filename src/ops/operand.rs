//! What products in bf16 read: matrices in f32, which are rounded on the way, or in bf16.

use std::ops::Deref;

use candle_core::{DType, Result, Tensor};
use half::bf16;

use super::cpu;
use super::gemm::{Factor, Layout, widen};

/// The numbers of a CPU tensor (rows, columns), readable while this lives.
pub(super) struct Operand<'a> {
    numbers: Numbers<'a>,
    layout: Layout,
}

enum Numbers<'a> {
    F32(Box<dyn Deref<Target = [f32]> + 'a>),
    Bf16(Box<dyn Deref<Target = [bf16]> + 'a>),
}

/// Numbers that lie one after the other.
#[derive(Clone, Copy)]
pub(super) enum Line<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Operand<'a> {
    /// Of a contiguous matrix in f32 or bf16.
    pub fn read(x: &'a Tensor) -> Result<Self> {
        let (rows, columns) = x.dims2()?;
        let numbers = match x.dtype() {
            DType::BF16 => Numbers::Bf16(Box::new(cpu::read_bf16(x)?)),
            _ => Numbers::F32(Box::new(cpu::read(x)?)),
        };
        Ok(Self { numbers, layout: Layout::plain(rows, columns) })
    }

    /// Row after row.
    pub fn line(&self) -> Line<'_> {
        match &self.numbers {
            Numbers::F32(numbers) => Line::F32(numbers),
            Numbers::Bf16(numbers) => Line::Bf16(numbers),
        }
    }

    /// The matrix.
    pub fn plain(&self) -> Factor<'_> {
        self.line().laid(self.layout)
    }

    /// Its transpose.
    pub fn transposed(&self) -> Factor<'_> {
        self.line().laid(self.layout.transposed())
    }

    pub fn rows(&self) -> usize {
        self.layout.rows
    }

    pub fn columns(&self) -> usize {
        self.layout.columns
    }
}

impl<'a> Line<'a> {
    fn laid(self, layout: Layout) -> Factor<'a> {
        match self {
            Self::F32(numbers) => layout.of(numbers).into(),
            Self::Bf16(numbers) => layout.of(numbers).into(),
        }
    }

    /// Writes the numbers from `start` on to `to`.
    pub fn widen(&self, start: usize, to: &mut [f32]) {
        match self {
            Self::F32(numbers) => to.copy_from_slice(&numbers[start..start + to.len()]),
            Self::Bf16(numbers) => widen(&numbers[start..start + to.len()], to),
        }
    }
}
