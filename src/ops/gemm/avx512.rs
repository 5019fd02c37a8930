//! The product's own kernel for processors with AVX-512: the gemm crate stays at two thirds of their peak where a
//! matrix comes transposed and its rows lie a multiple of 4,096 bytes apart, which is what `x · weightᵀ` is.
//!
//! As in Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008): blocks along the shared
//! side, both operands packed into slivers, tiles of the result in registers. A number of the result is added up in one
//! order, whatever the number of threads.

use std::arch::x86_64::*;
use std::cell::RefCell;

use rayon::prelude::*;

use super::operands::{Into, Layout, Matrix, Threads};
use super::turn::turn as turned;

/// Rows of a tile.
const ROWS: usize = 8;
/// Numbers in a vector register.
const LANES: usize = 16;
/// Vectors across a tile: 24 of 32 registers hold the tile.
const VECTORS: usize = 3;
const COLUMNS: usize = VECTORS * LANES;
/// Longest block along the shared side: a sliver of `a` stays in the first cache, a block of it in the second.
const DEPTH: usize = 512;
/// Rows of `a` packed at once.
const BLOCK_ROWS: usize = 96;

thread_local! {
    static PACKED_A: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PACKED_B: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Whether this processor has what the kernel needs.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2")
}

/// `dst = scale · a · b` or `dst += …`. The caller has checked shapes and spans, and that [`is_available`].
pub(super) fn product(dst: (&mut [f32], Layout, Into), scale: f32, a: Matrix, b: Matrix, threads: Threads) {
    let (dst, layout, into) = dst;
    let (n, k) = (layout.columns, a.layout.columns);
    let threads = match threads {
        Threads::All => rayon::current_num_threads(),
        Threads::One => 1,
    };
    let dst = Destination { start: dst.as_mut_ptr(), layout };
    // Taken, not borrowed: while this thread waits for others, it may be given another product to work on.
    let mut packed_b = PACKED_B.take();
    let blocks = k.div_ceil(DEPTH).max(1);
    for block in 0..blocks {
        // Blocks of about one length, which depends on nothing but k.
        let (from, to) = (block * k / blocks, (block + 1) * k / blocks);
        let depth = to - from;
        let into = if block > 0 { Into::Onto } else { into };
        let sliver = COLUMNS * depth;
        let size = n.div_ceil(COLUMNS) * sliver;
        if packed_b.len() < size {
            packed_b.resize(size, 0.0);
        }
        let pack_one = |(j, packed): (usize, &mut [f32])| {
            let columns = COLUMNS.min(n - j * COLUMNS);
            let strides = (b.layout.column_stride, b.layout.row_stride);
            pack::<COLUMNS>(
                &b.numbers[from * strides.1 + j * COLUMNS * strides.0..],
                strides,
                (columns, depth),
                packed,
            );
        };
        if depth > 0 && threads > 1 {
            packed_b[..size].par_chunks_mut(sliver).enumerate().for_each(pack_one);
        } else if depth > 0 {
            packed_b[..size].chunks_mut(sliver).enumerate().for_each(pack_one);
        }
        let step = Step { dst: &dst, into, scale, a, packed_b: &packed_b[..size], from, depth };
        step.run(threads);
    }
    PACKED_B.set(packed_b);
}

/// A result that several tasks write, each its own part.
struct Destination {
    start: *mut f32,
    layout: Layout,
}

#[allow(unsafe_code)]
// SAFETY: tasks write disjoint tiles, and the slice behind outlives them (it is borrowed by `product`).
unsafe impl Sync for Destination {}

/// One block along the shared side.
struct Step<'a> {
    dst: &'a Destination,
    into: Into,
    scale: f32,
    a: Matrix<'a>,
    packed_b: &'a [f32],
    from: usize,
    depth: usize,
}

impl Step<'_> {
    fn run(&self, threads: usize) {
        let layout = self.dst.layout;
        let (row_units, column_units) = (layout.rows.div_ceil(ROWS), layout.columns.div_ceil(COLUMNS));
        let row_blocks = layout.rows.div_ceil(BLOCK_ROWS).next_multiple_of(threads).min(row_units);
        // Few rows: the columns are shared out.
        let column_blocks = if row_blocks >= threads { 1 } else { (2 * threads).min(column_units) };
        let task = |t: usize| {
            let part = |i: usize, units: usize, blocks: usize| (i * units / blocks)..((i + 1) * units / blocks);
            let rows = part(t / column_blocks, row_units, row_blocks);
            let columns = part(t % column_blocks, column_units, column_blocks);
            PACKED_A.with_borrow_mut(|packed| self.tiles(rows, columns, packed));
        };
        let tasks = row_blocks * column_blocks;
        if threads > 1 && tasks > 1 {
            (0..tasks).into_par_iter().for_each(task);
        } else {
            (0..tasks).for_each(task);
        }
    }

    /// The tiles of these slivers of `a` and of `b`.
    #[allow(unsafe_code)]
    fn tiles(&self, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, packed: &mut Vec<f32>) {
        let (layout, depth) = (self.dst.layout, self.depth);
        let sliver = ROWS * depth;
        if packed.len() < rows.len() * sliver {
            packed.resize(rows.len() * sliver, 0.0);
        }
        let strides = (self.a.layout.row_stride, self.a.layout.column_stride);
        if depth > 0 {
            for (i, packed) in rows.clone().zip(packed.chunks_mut(sliver)) {
                let first = &self.a.numbers[i * ROWS * strides.0 + self.from * strides.1..];
                pack::<ROWS>(first, strides, (ROWS.min(layout.rows - i * ROWS), depth), packed);
            }
        }
        for j in columns {
            let b = &self.packed_b[j * COLUMNS * depth..(j + 1) * COLUMNS * depth];
            let width = COLUMNS.min(layout.columns - j * COLUMNS);
            for (at, i) in rows.clone().enumerate() {
                let a = &packed[at * sliver..(at + 1) * sliver];
                let height = ROWS.min(layout.rows - i * ROWS);
                // SAFETY: the tile's first number lies in the slice behind dst, as `product` in mod.rs has checked for
                // the whole layout; so do its `height` rows and `width` columns; no other task has this tile; a and b
                // hold `depth` groups of ROWS and COLUMNS numbers; the processor has AVX-512 (`is_available`).
                unsafe {
                    let c = self.dst.start.add(i * ROWS * layout.row_stride + j * COLUMNS * layout.column_stride);
                    let tile = Tile { c, layout, height, width, scale: self.scale, into: self.into };
                    match width.div_ceil(LANES) {
                        1 => tile.compute::<1>(a, b),
                        2 => tile.compute::<2>(a, b),
                        _ => tile.compute::<VECTORS>(a, b),
                    }
                }
            }
        }
    }
}

struct Tile {
    c: *mut f32,
    layout: Layout,
    height: usize,
    width: usize,
    scale: f32,
    into: Into,
}

impl Tile {
    /// # Safety
    /// `a` holds groups of ROWS, `b` as many of COLUMNS; the tile's rows and columns may be written.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn compute<const N: usize>(&self, a: &[f32], b: &[f32]) {
        let mut sums = [[_mm512_setzero_ps(); N]; ROWS];
        let (mut at_a, mut at_b) = (a.as_ptr(), b.as_ptr());
        for _ in 0..a.len() / ROWS {
            // SAFETY: one group of each, as the caller promises.
            unsafe {
                let row: [__m512; N] = std::array::from_fn(|v| _mm512_loadu_ps(at_b.add(v * LANES)));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*at_a.add(i));
                    for (sum, row) in sums.iter_mut().zip(row) {
                        *sum = _mm512_fmadd_ps(x, row, *sum);
                    }
                }
                at_a = at_a.add(ROWS);
                at_b = at_b.add(COLUMNS);
            }
        }
        if self.layout.column_stride != 1 {
            // SAFETY: as promised.
            return unsafe { self.scatter(&sums) };
        }
        let scale = _mm512_set1_ps(self.scale);
        for (i, sums) in sums.iter().enumerate() {
            // Not `take`: with all eight turns written out, the sums stay in registers.
            if i >= self.height {
                break;
            }
            for (v, sum) in sums.iter().enumerate() {
                let left = self.width - v * LANES;
                let mask: u16 = if left >= LANES { u16::MAX } else { (1 << left) - 1 };
                // SAFETY: the mask leaves what lies past the tile.
                unsafe {
                    let c = self.c.add(i * self.layout.row_stride + v * LANES);
                    let y = match self.into {
                        Into::Over => _mm512_mul_ps(scale, *sum),
                        Into::Onto => _mm512_fmadd_ps(scale, *sum, _mm512_maskz_loadu_ps(mask, c)),
                    };
                    if mask == u16::MAX { _mm512_storeu_ps(c, y) } else { _mm512_mask_storeu_ps(c, mask, y) }
                }
            }
        }
    }

    /// Writes a tile whose columns are not neighbours.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn scatter<const N: usize>(&self, sums: &[[__m512; N]; ROWS]) {
        for (i, sums) in sums.iter().enumerate().take(self.height) {
            for j in 0..self.width {
                let mut lanes = [0f32; LANES];
                // SAFETY: lanes has room; the tile's numbers may be written.
                unsafe {
                    _mm512_storeu_ps(lanes.as_mut_ptr(), sums[j / LANES]);
                    let c = self.c.add(i * self.layout.row_stride + j * self.layout.column_stride);
                    let before = if self.into == Into::Onto { *c } else { 0.0 };
                    *c = before + self.scale * lanes[j % LANES];
                }
            }
        }
    }
}

/// Packs `count` ≤ `WIDTH` lines of `depth` numbers so that the numbers at one depth stand together, `WIDTH` of them
/// with zeros at the end. Strides: from line to line, and along a line.
fn pack<const WIDTH: usize>(
    src: &[f32],
    (line, along): (usize, usize),
    (count, depth): (usize, usize),
    packed: &mut [f32],
) {
    if line == 1 {
        for (k, group) in packed.chunks_exact_mut(WIDTH).enumerate() {
            if count == WIDTH {
                // A length that the compiler knows: no call.
                group.copy_from_slice(&src[k * along..k * along + WIDTH]);
            } else {
                group[..count].copy_from_slice(&src[k * along..k * along + count]);
                group[count..].fill(0.0);
            }
        }
        return;
    }
    let mut done = 0;
    if along == 1 {
        // Squares of eight lines by eight numbers are turned in registers.
        for first in (0..count / 8 * 8).step_by(8) {
            for k in (0..depth / 8 * 8).step_by(8) {
                turn_eight(&src[first * line + k..], line, &mut packed[k * WIDTH + first..], WIDTH);
            }
            for k in depth / 8 * 8..depth {
                (0..8).for_each(|i| packed[k * WIDTH + first + i] = src[(first + i) * line + k]);
            }
        }
        done = count / 8 * 8;
    }
    for (k, group) in packed.chunks_exact_mut(WIDTH).enumerate() {
        for (i, to) in group.iter_mut().enumerate().skip(done) {
            *to = if i < count { src[i * line + k * along] } else { 0.0 };
        }
    }
}

/// dst[j][i] = src[i][j] for eight by eight numbers, rows `from` and `to` apart.
#[allow(unsafe_code)]
fn turn_eight(src: &[f32], from: usize, dst: &mut [f32], to: usize) {
    assert!(src.len() >= 7 * from + 8 && dst.len() >= 7 * to + 8, "eight rows of eight");
    #[target_feature(enable = "avx2")]
    unsafe fn turn(src: *const f32, from: usize, dst: *mut f32, to: usize) {
        // SAFETY: the caller has checked that eight numbers lie at each of the eight rows of both.
        unsafe {
            let rows = std::array::from_fn(|i| _mm256_loadu_ps(src.add(i * from)));
            for (column, row) in turned(rows).into_iter().enumerate() {
                _mm256_storeu_ps(dst.add(column * to), row);
            }
        }
    }
    // SAFETY: lengths were checked; the processor has AVX2 (`is_available`).
    unsafe { turn(src.as_ptr(), from, dst.as_mut_ptr(), to) }
}
