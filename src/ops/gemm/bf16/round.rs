//! Matrices rounded to bf16, where the product is that of f32.

use half::bf16;
use rayon::prelude::*;

use crate::ops::gemm::operands::{Layout, Matrix, Threads};
use crate::ops::round as numbers;

/// Numbers that one task rounds.
const BLOCK: usize = 1 << 14;

/// What a product in bf16 can read.
pub(super) trait Number: Copy + Send + Sync {
    /// `to[i]` = the nearest bf16 of `from[i]`, as f32.
    fn widen(from: &[Self], to: &mut [f32]);
    /// The nearest bf16.
    fn rounded(self) -> bf16;
}

impl Number for f32 {
    fn widen(from: &[f32], to: &mut [f32]) {
        numbers::round(from, to);
    }

    fn rounded(self) -> bf16 {
        bf16::from_bits(numbers::bits(self))
    }
}

impl Number for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        numbers::widen(from, to);
    }

    fn rounded(self) -> bf16 {
        self
    }
}

/// The matrix rounded to bf16, as f32 at the start of `to`. Whichever of rows and columns lay together lies there one
/// after the other.
pub(super) fn round<T: Number>(matrix: Matrix<T>, to: &mut Vec<f32>, threads: Threads) -> Layout {
    let layout = matrix.layout;
    let turned = layout.column_stride != 1 && layout.row_stride == 1;
    let Layout { rows, columns, row_stride, column_stride } = if turned { layout.transposed() } else { layout };
    let size = rows * columns;
    if to.len() < size {
        to.resize(size, 0.0);
    }
    let lines = (BLOCK / columns.max(1)).max(1);
    let task = |(task, to): (usize, &mut [f32])| {
        for (i, to) in to.chunks_exact_mut(columns).enumerate() {
            let line = &matrix.numbers[(task * lines + i) * row_stride..];
            if column_stride == 1 {
                T::widen(&line[..columns], to);
            } else {
                to.iter_mut().enumerate().for_each(|(j, y)| *y = line[j * column_stride].rounded().to_f32());
            }
        }
    };
    match threads {
        _ if size == 0 => {}
        Threads::All => to[..size].par_chunks_mut(lines * columns).enumerate().for_each(task),
        Threads::One => to[..size].chunks_mut(lines * columns).enumerate().for_each(task),
    }
    let plain = Layout::plain(rows, columns);
    if turned { plain.transposed() } else { plain }
}
