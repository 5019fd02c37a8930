//! Products of operands that are rounded to bf16, their sums in f32.

mod output;
mod round;
mod rounded;
mod support;

use half::bf16;

pub(in crate::ops) use output::{Epilogue, Output};
pub use support::{Bf16Kernel, Bf16Support, bf16_support};

use super::operands::{Layout, Matrix, Threads};

/// An operand.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) enum Factor<'a> {
    F32(Matrix<'a, f32>),
    Bf16(Matrix<'a, bf16>),
    /// As `b` alone.
    Packed(&'a Packed),
}

impl<'a> From<Matrix<'a, f32>> for Factor<'a> {
    fn from(matrix: Matrix<'a, f32>) -> Self {
        Self::F32(matrix)
    }
}

impl<'a> From<Matrix<'a, bf16>> for Factor<'a> {
    fn from(matrix: Matrix<'a, bf16>) -> Self {
        Self::Bf16(matrix)
    }
}

impl<'a> From<&'a Packed> for Factor<'a> {
    fn from(packed: &'a Packed) -> Self {
        Self::Packed(packed)
    }
}

impl Factor<'_> {
    /// (rows, columns)
    fn shape(&self) -> (usize, usize) {
        match self {
            Self::F32(matrix) => (matrix.layout.rows, matrix.layout.columns),
            Self::Bf16(matrix) => (matrix.layout.rows, matrix.layout.columns),
            Self::Packed(packed) => packed.shape,
        }
    }

    /// Rounds it into f32.
    fn round(self, to: &mut Vec<f32>, threads: Threads) -> Layout {
        match self {
            Self::F32(matrix) => rounded::round(matrix, to, threads),
            Self::Bf16(matrix) => rounded::round(matrix, to, threads),
            Self::Packed(_) => panic!("what is packed is the second factor"),
        }
    }
}

/// A second factor that is rounded and packed for the machine's kernel: worth keeping where it is used again.
#[derive(Debug)]
pub(in crate::ops) struct Packed {
    /// (rows, columns)
    shape: (usize, usize),
    form: Form,
}

#[derive(Debug)]
enum Form {
    Rounded(Vec<f32>, Layout),
}

/// What works on a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    /// That of f32, on rounded operands.
    Rounded,
}

impl Kernel {
    fn of_this_machine() -> Self {
        match bf16_support().kernel {
            Some(Bf16Kernel::Amx | Bf16Kernel::Avx512Bf16) | None => Self::Rounded,
        }
    }
}

impl Packed {
    pub fn new<'a>(b: impl std::convert::Into<Factor<'a>>, threads: Threads) -> Self {
        Self::by(Kernel::of_this_machine(), b.into(), threads)
    }

    fn by(_kernel: Kernel, b: Factor, threads: Threads) -> Self {
        let mut rounded = Vec::new();
        let layout = b.round(&mut rounded, threads);
        Self { shape: b.shape(), form: Form::Rounded(rounded, layout) }
    }
}

/// `a · b` with both rounded to bf16, sums in f32, into `output` by way of `epilogue`.
pub(in crate::ops) fn product_bf16<'a>(
    output: Output,
    a: impl std::convert::Into<Factor<'a>>,
    b: impl std::convert::Into<Factor<'a>>,
    epilogue: Epilogue,
    threads: Threads,
) {
    product_by(Kernel::of_this_machine(), output, a.into(), b.into(), epilogue, threads);
}

fn product_by(_kernel: Kernel, output: Output, a: Factor, b: Factor, epilogue: Epilogue, threads: Threads) {
    let (la, lb, to) = (a.shape(), b.shape(), output.layout());
    assert!(la.1 == lb.0 && (to.rows, to.columns) == (la.0, lb.1), "shapes fit");
    let round_a = |buffer: &mut Vec<f32>| a.round(buffer, threads);
    let round_b = |buffer: &mut Vec<f32>| b.round(buffer, threads);
    let b = match b {
        Factor::Packed(Packed { form: Form::Rounded(numbers, layout), .. }) => Ok(layout.of(numbers)),
        _ => Err(round_b),
    };
    rounded::product_rounded(output, round_a, b, epilogue, threads);
}

#[cfg(test)]
mod tests;
