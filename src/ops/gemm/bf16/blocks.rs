//! A product of packed operands: the result in blocks of 32 by 32, each along the whole shared side, so that a number
//! is added up in one order whoever works on it.

use std::cell::RefCell;

use rayon::prelude::*;

use super::factor::Factor;
use super::output::{Epilogue, Output, Part, Sink};
use super::pack::{Line, Role, SIDE, sliver};
use crate::ops::gemm::operands::Threads;

/// Results of one block, row after row.
#[repr(C, align(64))]
pub(super) struct Sums(pub [f32; SIDE * SIDE]);

/// What works out blocks.
pub(super) trait Blocks {
    /// Prepares this thread.
    fn start() -> Self;
    /// A sliver of `a` by one of `b`.
    fn block(&mut self, a: &[Line], b: &[Line], sums: &mut Sums);
}

/// Slivers of `a` that a task goes over for each sliver of `b`: they stay in the second cache.
const MOST_ROWS: usize = 6;
/// As many where the shared side is long.
const FEWEST_ROWS: usize = 4;
/// Bytes of a sliver up to which as many as possible are taken.
const SHORT: usize = 256 << 10;
/// Tasks for each thread, so that none waits long for the last.
const TASKS: usize = 4;
/// Blocks below which it is not worth sharing them.
const FEWEST_BLOCKS: usize = 8;

thread_local! {
    static FOR_A: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static FOR_B: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// Kept, so that the small products of attention do not clear it each time.
    static SUMS: RefCell<Sums> = const { RefCell::new(Sums([0.0; SIDE * SIDE])) };
}

/// What [`super::product_bf16`] does.
pub(super) fn product<B: Blocks>(output: Output, a: Factor, b: Factor, epilogue: Epilogue, threads: Threads) {
    let sink = Sink::new(output, epilogue);
    let (_, depth) = a.shape();
    // Taken, not borrowed: while this thread waits for others, it may be given another product to work on.
    let (mut for_a, mut for_b) = (FOR_A.take(), FOR_B.take());
    let (to_a, to_b) = (&mut for_a, &mut for_b);
    let (a, b) = match threads {
        Threads::All => rayon::join(|| a.slivers(Role::A, to_a, threads), || b.slivers(Role::B, to_b, threads)),
        Threads::One => (a.slivers(Role::A, to_a, threads), b.slivers(Role::B, to_b, threads)),
    };
    share_out::<B>(&sink, (a, b), sliver(depth), threads);
    FOR_A.set(for_a);
    FOR_B.set(for_b);
}

/// Into how many parts columns are divided, so that these and so many parts of rows make tasks enough for each thread,
/// and as many for one as for the other: nine alike take two threads as long as ten.
fn even_share(row_blocks: usize, threads: usize) -> usize {
    let fewest = (TASKS * threads).div_ceil(row_blocks.max(1));
    (fewest..fewest + threads).find(|columns| (row_blocks * columns).is_multiple_of(threads)).unwrap_or(fewest)
}

/// Works out the whole output from slivers of so many lines.
fn share_out<B: Blocks>(sink: &Sink, (a, b): (&[Line], &[Line]), lines: usize, threads: Threads) {
    let to = sink.layout();
    let (rows, columns) = (to.rows.div_ceil(SIDE), to.columns.div_ceil(SIDE));
    assert!(a.len() == rows * lines && b.len() == columns * lines, "slivers of the whole output");
    let most_rows = if lines * size_of::<Line>() > SHORT { FEWEST_ROWS } else { MOST_ROWS };
    let row_blocks = rows.div_ceil(most_rows);
    let wanted = match threads {
        Threads::One => 1,
        Threads::All => even_share(row_blocks, rayon::current_num_threads()),
    };
    let worth = rows.min(most_rows) * columns / FEWEST_BLOCKS;
    let column_blocks = wanted.min(worth).max(1);
    let part = |i: usize, units: usize, blocks: usize| (i * units / blocks)..((i + 1) * units / blocks);
    let work = |task: usize, sums: &mut Sums| {
        let mut blocks = B::start();
        for j in part(task % column_blocks, columns, column_blocks) {
            for i in part(task / column_blocks, rows, row_blocks) {
                let (row, column) = (i * SIDE, j * SIDE);
                let (rows, columns) = (SIDE.min(to.rows - row), SIDE.min(to.columns - column));
                let part = Part { row, column, rows, columns };
                sink.expect(&part);
                blocks.block(&a[i * lines..(i + 1) * lines], &b[j * lines..(j + 1) * lines], sums);
                #[allow(unsafe_code)]
                // SAFETY: each task has blocks of its own.
                unsafe {
                    sink.write(&part, &mut sums.0, SIDE);
                }
            }
        }
    };
    // Borrowed: a task waits for no other, so that its thread is given none meanwhile.
    let task = |task: usize| SUMS.with_borrow_mut(|sums| work(task, sums));
    let tasks = row_blocks * column_blocks;
    match threads {
        Threads::All if tasks > 1 => (0..tasks).into_par_iter().with_max_len(1).for_each(task),
        _ => (0..tasks).for_each(task),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_get_as_many_tasks_each() {
        for (row_blocks, threads) in (0..40).flat_map(|rows| (1..20).map(move |threads| (rows, threads))) {
            let tasks = row_blocks * even_share(row_blocks, threads);
            assert!(tasks.is_multiple_of(threads), "{row_blocks} {threads}");
            assert!(row_blocks == 0 || tasks >= TASKS * threads, "{row_blocks} {threads}");
        }
        // 50 slivers of rows, as 32 images have them, make nine blocks.
        assert_eq!((even_share(9, 2), even_share(8, 2), even_share(3, 2), even_share(1, 2)), (2, 1, 4, 8));
    }
}
