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
use super::processor::is_amd;
use super::turn::turn as turned;

/// Numbers in a vector register.
const LANES: usize = 16;

/// Tiles of so many rows and columns: 24 or 28 of 32 registers hold one.
pub(super) struct Tiles<const ROWS: usize, const COLUMNS: usize>;
/// Reaches the peak of AMD's processors.
pub(super) type OfAmd = Tiles<8, 48>;
/// On Intel's, a tenth faster in the first cache than the other.
pub(super) type OfIntel = Tiles<14, 32>;

/// How a product is cut for such tiles.
trait Blocking {
    /// Longest block along the shared side.
    const DEPTH: usize;
    /// Rows of `a` packed at once, which stay in the second cache.
    const BLOCK_ROWS: usize;
    /// Whether the next sliver of `b` is asked for while one is worked on.
    const ASKS_AHEAD: bool;
}

impl Blocking for OfAmd {
    /// A sliver of `a` stays in the first cache.
    const DEPTH: usize = 512;
    const BLOCK_ROWS: usize = 96;
    const ASKS_AHEAD: bool = false;
}

impl Blocking for OfIntel {
    /// A sliver of `b`, 32 KiB, stays in the first cache with what is read of `a`.
    const DEPTH: usize = 256;
    /// The third cache is slow there: a sliver of `b` that comes from it serves many tiles.
    const BLOCK_ROWS: usize = 24 * 14;
    const ASKS_AHEAD: bool = true;
}

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
    if is_amd() { OfAmd::product(dst, scale, a, b, threads) } else { OfIntel::product(dst, scale, a, b, threads) }
}

#[allow(private_bounds)]
impl<const ROWS: usize, const COLUMNS: usize> Tiles<ROWS, COLUMNS>
where
    Self: Blocking,
{
    /// [`product`] by these tiles.
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
        let blocks = k.div_ceil(Self::DEPTH).max(1);
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
            Self::run(&step, threads);
        }
        PACKED_B.set(packed_b);
    }

    fn run(step: &Step, threads: usize) {
        let layout = step.dst.layout;
        let (row_units, column_units) = (layout.rows.div_ceil(ROWS), layout.columns.div_ceil(COLUMNS));
        let row_blocks = layout.rows.div_ceil(Self::BLOCK_ROWS).next_multiple_of(threads).min(row_units);
        // Few rows: the columns are shared out.
        let column_blocks = if row_blocks >= threads { 1 } else { (2 * threads).min(column_units) };
        let task = |t: usize| {
            let part = |i: usize, units: usize, blocks: usize| (i * units / blocks)..((i + 1) * units / blocks);
            let rows = part(t / column_blocks, row_units, row_blocks);
            let columns = part(t % column_blocks, column_units, column_blocks);
            PACKED_A.with_borrow_mut(|packed| Self::tiles(step, rows, columns, packed));
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
    fn tiles(step: &Step, rows: std::ops::Range<usize>, columns: std::ops::Range<usize>, packed: &mut Vec<f32>) {
        let (layout, depth) = (step.dst.layout, step.depth);
        let sliver = ROWS * depth;
        if packed.len() < rows.len() * sliver {
            packed.resize(rows.len() * sliver, 0.0);
        }
        let strides = (step.a.layout.row_stride, step.a.layout.column_stride);
        if depth > 0 {
            for (i, packed) in rows.clone().zip(packed.chunks_mut(sliver)) {
                let first = &step.a.numbers[i * ROWS * strides.0 + step.from * strides.1..];
                pack::<ROWS>(first, strides, (ROWS.min(layout.rows - i * ROWS), depth), packed);
            }
        }
        for j in columns {
            let b = &step.packed_b[j * COLUMNS * depth..(j + 1) * COLUMNS * depth];
            let width = COLUMNS.min(layout.columns - j * COLUMNS);
            let next = step.packed_b.get((j + 1) * COLUMNS * depth..(j + 2) * COLUMNS * depth).unwrap_or_default();
            for (at, i) in rows.clone().enumerate() {
                let a = &packed[at * sliver..(at + 1) * sliver];
                if Self::ASKS_AHEAD {
                    ask_for(&next[at * next.len() / rows.len()..(at + 1) * next.len() / rows.len()]);
                }
                let height = ROWS.min(layout.rows - i * ROWS);
                // SAFETY: the tile's first number lies in the slice behind dst, as `product` in mod.rs has checked for
                // the whole layout; so do its `height` rows and `width` columns; no other task has this tile; a and b
                // hold `depth` groups of ROWS and COLUMNS numbers; the processor has AVX-512 (`is_available`).
                unsafe {
                    let c = step.dst.start.add(i * ROWS * layout.row_stride + j * COLUMNS * layout.column_stride);
                    let tile = Tile { c, layout, height, width, scale: step.scale, into: step.into };
                    match width.div_ceil(LANES) {
                        1 => tile.compute::<ROWS, COLUMNS, 1>(a, b),
                        2 => tile.compute::<ROWS, COLUMNS, 2>(a, b),
                        _ => tile.compute::<ROWS, COLUMNS, 3>(a, b),
                    }
                }
            }
        }
    }
}

/// Has these numbers fetched into the second cache.
fn ask_for(numbers: &[f32]) {
    for line in numbers.chunks(LANES) {
        #[allow(unsafe_code)]
        // SAFETY: a hint; whatever the address, nothing is read.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast());
        }
    }
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
    unsafe fn compute<const ROWS: usize, const COLUMNS: usize, const N: usize>(&self, a: &[f32], b: &[f32]) {
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
            // Not `take`: with all turns written out, the sums stay in registers.
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
    unsafe fn scatter<const N: usize>(&self, sums: &[[__m512; N]]) {
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
    if along == 1 {
        // Squares of eight lines by eight numbers are turned in registers.
        for first in (0..WIDTH).step_by(8) {
            let width = 8.min(WIDTH - first);
            let lines = width.min(count.saturating_sub(first));
            let whole = if lines == 0 { 0 } else { depth / 8 * 8 };
            for k in (0..whole).step_by(8) {
                let to = &mut packed[k * WIDTH + first..];
                turn_eight((&src[first * line + k..], line, lines), (to, WIDTH, width));
            }
            for k in whole..depth {
                for (i, to) in packed[k * WIDTH + first..][..width].iter_mut().enumerate() {
                    *to = if i < lines { src[(first + i) * line + k] } else { 0.0 };
                }
            }
        }
        return;
    }
    for (k, group) in packed.chunks_exact_mut(WIDTH).enumerate() {
        for (i, to) in group.iter_mut().enumerate() {
            *to = if i < count { src[i * line + k * along] } else { 0.0 };
        }
    }
}

/// dst[j][i] = src[i][j] for eight j and i < `width`, zero from i = `lines` on; rows `from` and `to` apart.
#[allow(unsafe_code)]
fn turn_eight((src, from, lines): (&[f32], usize, usize), (dst, to, width): (&mut [f32], usize, usize)) {
    assert!(0 < lines && lines <= width && width <= 8, "up to eight rows");
    assert!(src.len() >= (lines - 1) * from + 8 && dst.len() >= 7 * to + width, "rows of eight");
    #[target_feature(enable = "avx2")]
    unsafe fn turn((src, from, lines): (*const f32, usize, usize), (dst, to, width): (*mut f32, usize, usize)) {
        // SAFETY: the caller has checked that eight numbers lie at each of the rows that are read, and that as many as
        // are written may be.
        unsafe {
            let row = |i: usize| if i < lines { _mm256_loadu_ps(src.add(i * from)) } else { _mm256_setzero_ps() };
            let turned = turned(std::array::from_fn(row));
            let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let within = _mm256_cmpgt_epi32(_mm256_set1_epi32(width as i32), places);
            for (column, row) in turned.into_iter().enumerate() {
                let to = dst.add(column * to);
                if width == 8 { _mm256_storeu_ps(to, row) } else { _mm256_maskstore_ps(to, within, row) }
            }
        }
    }
    // SAFETY: lengths were checked; the processor has AVX2 (`is_available`).
    unsafe { turn((src.as_ptr(), from, lines), (dst.as_mut_ptr(), to, width)) }
}
