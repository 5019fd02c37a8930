//! A product in bf16 on a machine that has no kernel for it: operands are rounded, the product is that of f32.

use std::cell::RefCell;

use rayon::prelude::*;

use super::factor::Factor;
use super::output::{Epilogue, Output, PIECE, Part, Sink};
use crate::ops::gemm::operands::{Into, Layout, Threads};
use crate::ops::gemm::product as product_f32;

thread_local! {
    static A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Numbers that one task finishes.
const BLOCK: usize = 1 << 14;

/// What [`super::product_bf16`] does.
pub(super) fn product(output: Output, a: Factor, b: Factor, epilogue: Epilogue, threads: Threads) {
    // Taken, not borrowed: while this thread waits for others, it may be given another product to work on.
    let (mut for_a, mut for_b) = (A.take(), B.take());
    let (a, b) = (a.rounded(&mut for_a, threads), b.rounded(&mut for_b, threads));
    match output {
        Output::F32(numbers, layout, into) if epilogue.bias.is_none() && epilogue.then.is_none() => {
            product_f32((numbers, layout, into), epilogue.scale, a, b, threads);
        }
        output => {
            let layout = Layout::plain(a.layout.rows, b.layout.columns);
            let mut sums = SUMS.take();
            let size = layout.rows * layout.columns;
            if sums.len() < size {
                sums.resize(size, 0.0);
            }
            product_f32((&mut sums, layout, Into::Over), 1.0, a, b, threads);
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
