//! A product in bf16 on a machine that has no kernel for it: operands are rounded, the product is that of f32.

use std::cell::RefCell;

use rayon::prelude::*;

use super::output::{Epilogue, Output, PIECE, Part, Sink};
use super::round::Number;
use crate::ops::gemm::operands::{Into, Layout, Matrix, Threads};
use crate::ops::gemm::product;

thread_local! {
    static A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Numbers that one task rounds or writes.
const BLOCK: usize = 1 << 14;

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

/// What [`super::product_bf16`] does, of operands that a rounding has left in the buffers it is given.
pub(super) fn product_rounded(
    output: Output,
    a: impl FnOnce(&mut Vec<f32>) -> Layout,
    b: Result<Matrix, impl FnOnce(&mut Vec<f32>) -> Layout>,
    epilogue: Epilogue,
    threads: Threads,
) {
    // Taken, not borrowed: while this thread waits for others, it may be given another product to work on.
    let (mut for_a, mut for_b) = (A.take(), B.take());
    let a = a(&mut for_a).of(&for_a);
    let b = match b {
        Ok(b) => b,
        Err(round) => round(&mut for_b).of(&for_b),
    };
    match output {
        Output::F32(numbers, layout, into) if epilogue.bias.is_none() && epilogue.then.is_none() => {
            product((numbers, layout, into), epilogue.scale, a, b, threads);
        }
        output => {
            let layout = Layout::plain(a.layout.rows, b.layout.columns);
            let mut sums = SUMS.take();
            let size = layout.rows * layout.columns;
            if sums.len() < size {
                sums.resize(size, 0.0);
            }
            product((&mut sums, layout, Into::Over), 1.0, a, b, threads);
            finish(&Sink::new(output, epilogue), &mut sums[..size], threads);
            SUMS.set(sums);
        }
    }
    A.set(for_a);
    B.set(for_b);
}

/// Writes sums that lie row after row.
fn finish(sink: &Sink, sums: &mut [f32], threads: Threads) {
    let columns = sink.layout().columns.max(1);
    let rows = (BLOCK / columns).max(1);
    #[allow(unsafe_code)]
    let task = |(task, sums): (usize, &mut [f32])| {
        let height = sums.len() / columns;
        for column in (0..columns).step_by(PIECE) {
            let part = Part { row: task * rows, column, rows: height, columns: PIECE.min(columns - column) };
            // SAFETY: each task has rows of its own.
            unsafe { sink.write(&part, &mut sums[column..], columns) };
        }
    };
    match threads {
        Threads::All => sums.par_chunks_mut(rows * columns).enumerate().for_each(task),
        Threads::One => sums.chunks_mut(rows * columns).enumerate().for_each(task),
    }
}
