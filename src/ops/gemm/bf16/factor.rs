//! Operands of products in bf16.

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::pack::{self, Line, Role};
use super::round;
use crate::ops::gemm::operands::{Layout, Matrix, Threads};

/// An operand.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) enum Factor<'a> {
    F32(Matrix<'a, f32>),
    Bf16(Matrix<'a, bf16>),
    /// As that operand alone which it was packed as.
    Packed(&'a Packed),
}

/// An operand that is rounded and packed for the machine's kernel: worth keeping where it is used again.
#[derive(Debug)]
pub(in crate::ops) struct Packed {
    /// (rows, columns)
    shape: (usize, usize),
    form: Form,
}

#[derive(Debug)]
enum Form {
    Rounded(Vec<f32>, Layout),
    #[cfg(target_arch = "x86_64")]
    Slivers(Role, Vec<Line>),
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

impl Packed {
    pub(super) fn rounded(factor: Factor, threads: Threads) -> Self {
        let mut numbers = Vec::new();
        let layout = match factor {
            Factor::F32(matrix) => round::round(matrix, &mut numbers, threads),
            Factor::Bf16(matrix) => round::round(matrix, &mut numbers, threads),
            Factor::Packed(_) => panic!("what is packed is not packed again"),
        };
        Self { shape: factor.shape(), form: Form::Rounded(numbers, layout) }
    }

    /// Of slivers that a product has written, as the first operand of another.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn of_lines(shape: (usize, usize), lines: Vec<Line>) -> Self {
        Self { shape, form: Form::Slivers(Role::A, lines) }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn in_slivers(factor: Factor, role: Role, threads: Threads) -> Self {
        let mut lines = Vec::new();
        factor.slivers(role, &mut lines, threads);
        Self { shape: factor.shape(), form: Form::Slivers(role, lines) }
    }
}

impl<'a> Factor<'a> {
    /// (rows, columns)
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Self::F32(matrix) => (matrix.layout.rows, matrix.layout.columns),
            Self::Bf16(matrix) => (matrix.layout.rows, matrix.layout.columns),
            Self::Packed(packed) => packed.shape,
        }
    }

    /// Rows as columns; not of what is packed.
    pub fn transposed(self) -> Self {
        match self {
            Self::F32(matrix) => Self::F32(matrix.transposed()),
            Self::Bf16(matrix) => Self::Bf16(matrix.transposed()),
            Self::Packed(_) => panic!("what is packed is not turned"),
        }
    }

    /// Rounded to bf16, as f32; it lies in `buffer` where it was not yet.
    pub(super) fn rounded<'b>(self, buffer: &'b mut Vec<f32>, threads: Threads) -> Matrix<'b>
    where
        'a: 'b,
    {
        let layout = match self {
            Self::F32(matrix) => round::round(matrix, buffer, threads),
            Self::Bf16(matrix) => round::round(matrix, buffer, threads),
            Self::Packed(Packed { form: Form::Rounded(numbers, layout), .. }) => return layout.of(numbers),
            #[cfg(target_arch = "x86_64")]
            Self::Packed(_) => panic!("it was packed for another kernel"),
        };
        layout.of(buffer)
    }

    /// Its slivers; they lie in `buffer` where they were not yet.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn slivers<'b>(self, role: Role, buffer: &'b mut Vec<Line>, threads: Threads) -> &'b [Line]
    where
        'a: 'b,
    {
        let size = match self {
            Self::F32(matrix) => pack::pack(matrix, role, buffer, threads),
            Self::Bf16(matrix) => pack::pack(matrix, role, buffer, threads),
            Self::Packed(Packed { form: Form::Slivers(of, lines), .. }) if *of == role => return lines,
            Self::Packed(_) => panic!("it was packed for another kernel, or as the other operand"),
        };
        &buffer[..size]
    }
}
