//! Operands rounded to bf16 and laid out as tile registers take them.
//!
//! A sliver is 32 rows of `a`, or 32 columns of `b`, along the whole shared side. For each 32 numbers along it, a step,
//! it holds two tiles of 16 lines of 64 bytes. A line of `a` is a row's 32 numbers; a line of `b` holds pairs: two
//! neighbours along the shared side for each of 16 columns. What lies past the matrix is zero.

use std::arch::x86_64::*;

use half::bf16;
use rayon::prelude::*;

use super::round::Number;
use crate::ops::alloc::AnyBits;
use crate::ops::gemm::operands::{Layout, Matrix, Threads};
use crate::ops::gemm::turn::turn;

/// Rows or columns of a sliver, and numbers along the shared side of a step.
pub(super) const SIDE: usize = 32;
/// Lines of a tile.
pub(super) const TILE: usize = 16;

/// What a tile register holds in a row: 16 pairs of bf16, the earlier in the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(in crate::ops) struct Line(pub [u32; 16]);

impl Line {
    pub(super) const ZERO: Self = Self([0; 16]);
}

#[allow(unsafe_code)]
// SAFETY: every pattern of its bits is a line.
unsafe impl AnyBits for Line {
    const NAN: Self = Self([0x7fc0_7fc0; 16]);
}

/// Which operand it is packed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    A,
    B,
}

/// Lines of a sliver of this length.
pub(super) fn sliver(depth: usize) -> usize {
    depth.div_ceil(SIDE) * SIDE
}

/// Whether this processor has what packing needs.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2")
}

/// Packs a matrix to the start of `to`; returns how many lines. [`is_available`] must say yes.
pub(super) fn pack<T: Packable>(matrix: Matrix<T>, role: Role, to: &mut Vec<Line>, threads: Threads) -> usize {
    assert!(is_available(), "packing needs AVX2");
    let matrix = if role == Role::B { matrix.transposed() } else { matrix };
    let Layout { rows, columns: depth, .. } = matrix.layout;
    let (slivers, lines) = (rows.div_ceil(SIDE), sliver(depth));
    let size = slivers * lines;
    if to.len() < size {
        to.clear();
        to.resize(size, Line::ZERO);
    }
    #[allow(unsafe_code)]
    // SAFETY: the processor has AVX2, as was just asked.
    let task = |(i, to): (usize, &mut [Line])| unsafe { pack_sliver(matrix, i * SIDE, role, to) };
    match threads {
        _ if size == 0 => {}
        Threads::All => to[..size].par_chunks_mut(lines).enumerate().for_each(task),
        Threads::One => to[..size].chunks_mut(lines).enumerate().for_each(task),
    }
    size
}

/// Packs the rows from `first` on.
#[target_feature(enable = "avx2")]
fn pack_sliver<T: Packable>(matrix: Matrix<T>, first: usize, role: Role, to: &mut [Line]) {
    let Layout { rows, columns: depth, row_stride, column_stride } = matrix.layout;
    let height = SIDE.min(rows - first);
    for (step, to) in to.chunks_exact_mut(SIDE).enumerate() {
        let from = step * SIDE;
        let start = &matrix.numbers[first * row_stride + from * column_stride..];
        let square = Square { numbers: start, line: row_stride, along: column_stride };
        let width = SIDE.min(depth - from);
        if height == SIDE && width == SIDE && (row_stride == 1 || column_stride == 1) {
            pack_square(&square, role, to);
        } else {
            let mut whole = [T::ZERO; SIDE * SIDE];
            pack_square(&square.complete((height, width), &mut whole), role, to);
        }
    }
}

/// Some lines of numbers: `numbers[i · line + k · along]` is the k-th of line i.
struct Square<'a, T> {
    numbers: &'a [T],
    line: usize,
    along: usize,
}

impl<T: Packable> Square<'_, T> {
    /// The same with zeros up to a whole square, in `whole`, which is zero.
    fn complete<'a>(&self, (height, width): (usize, usize), whole: &'a mut [T; SIDE * SIDE]) -> Square<'a, T> {
        let Self { numbers, line, along } = *self;
        if line == 1 && along != 1 {
            for k in 0..width {
                whole[k * SIDE..][..height].copy_from_slice(&numbers[k * along..][..height]);
            }
            return Square { numbers: whole, line: 1, along: SIDE };
        }
        for i in 0..height {
            let to = &mut whole[i * SIDE..][..width];
            if along == 1 {
                to.copy_from_slice(&numbers[i * line..][..width]);
            } else {
                to.iter_mut().enumerate().for_each(|(k, to)| *to = numbers[i * line + k * along]);
            }
        }
        Square { numbers: whole, line: SIDE, along: 1 }
    }
}

/// Packs a whole square of 32 lines by 32 numbers, one of whose strides is 1.
#[inline]
#[target_feature(enable = "avx2")]
fn pack_square<T: Packable>(square: &Square<T>, role: Role, to: &mut [Line]) {
    let Square { numbers, line, along } = *square;
    // Eight pairs: of one line where they lie together, else one of each of eight lines.
    let together = along == 1;
    let (outer, inner) = if together { (line, 1) } else { (2 * along, 1) };
    let last = if together { 31 * line + 31 } else { 31 * along + 31 };
    assert!(numbers.len() > last && (along == 1 || line == 1) && to.len() == SIDE, "a whole square");
    let start = numbers.as_ptr();
    // SAFETY: with i < 32 lines and first pairs of 0 and 8 (together), or i < 16 pairs and first lines below 32, what
    // is read ends at `last`, which lies within the slice; the processor has AVX2.
    #[allow(unsafe_code)]
    let eight = |i: usize, first: usize| unsafe {
        match together {
            true => T::along(start.add(i * outer + 2 * first * inner)),
            false => T::across(start.add(i * outer + first), start.add(i * outer + along + first)),
        }
    };
    match (role, together) {
        (Role::A, true) => {
            for (i, to) in to.iter_mut().enumerate() {
                *to = whole(eight(i, 0), eight(i, 8));
            }
        }
        (Role::B, false) => {
            for (i, to) in to.iter_mut().enumerate() {
                let (column, pair) = (i / TILE * TILE, i % TILE);
                *to = whole(eight(pair, column), eight(pair, column + 8));
            }
        }
        (Role::A, false) => {
            for (first, pair) in squares() {
                turn_into(|p| eight(pair + p, first), to, first, pair);
            }
        }
        (Role::B, true) => {
            for (line, pair) in squares() {
                turn_into(|i| eight(line + i, pair), to, line / TILE * TILE + pair, line % TILE);
            }
        }
    }
}

/// First line and first pair of each square of eight by eight.
fn squares() -> impl Iterator<Item = (usize, usize)> {
    (0..SIDE).step_by(8).flat_map(|line| [(line, 0), (line, 8)])
}

/// Turns eight rows of eight pairs into the half from `pair` on of the eight lines from `first` on.
#[inline]
#[target_feature(enable = "avx2")]
fn turn_into(row: impl Fn(usize) -> __m256i, to: &mut [Line], first: usize, pair: usize) {
    let turned = turn(std::array::from_fn(|i| _mm256_castsi256_ps(row(i))));
    for (line, half) in to[first..first + 8].iter_mut().zip(turned) {
        let to = line.0[pair..pair + 8].as_mut_ptr();
        #[allow(unsafe_code)]
        // SAFETY: half a line has room for one, and is aligned to 32 bytes.
        unsafe {
            _mm256_store_ps(to.cast(), half);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn whole(left: __m256i, right: __m256i) -> Line {
    let mut line = Line::ZERO;
    let to = line.0.as_mut_ptr().cast::<__m256i>();
    #[allow(unsafe_code)]
    // SAFETY: a line has room for two, and is aligned to 64 bytes.
    unsafe {
        _mm256_store_si256(to, left);
        _mm256_store_si256(to.add(1), right);
    }
    line
}

/// Numbers that can be packed: how eight pairs of bf16 are made of them.
#[allow(unsafe_code)]
pub(super) trait Packable: Number {
    const ZERO: Self;
    /// Of 16 neighbours.
    ///
    /// # Safety
    /// They may be read, and the processor has AVX2.
    unsafe fn along(from: *const Self) -> __m256i;
    /// Of eight neighbours each.
    ///
    /// # Safety
    /// They may be read, and the processor has AVX2.
    unsafe fn across(first: *const Self, second: *const Self) -> __m256i;
}

#[allow(unsafe_code)]
impl Packable for f32 {
    const ZERO: Self = 0.0;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn along(from: *const f32) -> __m256i {
        // SAFETY: as promised.
        let (a, b) = unsafe { (_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))) };
        let packed = _mm256_packus_epi32(_mm256_srli_epi32::<16>(round(a)), _mm256_srli_epi32::<16>(round(b)));
        // Packing works in halves of registers: their middle quarters change places.
        _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn across(first: *const f32, second: *const f32) -> __m256i {
        // SAFETY: as promised.
        let (a, b) = unsafe { (_mm256_loadu_ps(first), _mm256_loadu_ps(second)) };
        _mm256_blend_epi16::<0b1010_1010>(_mm256_srli_epi32::<16>(round(a)), round(b))
    }
}

#[allow(unsafe_code)]
impl Packable for bf16 {
    const ZERO: Self = bf16::ZERO;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn along(from: *const bf16) -> __m256i {
        // SAFETY: as promised.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn across(first: *const bf16, second: *const bf16) -> __m256i {
        // SAFETY: as promised.
        let (a, b) = unsafe { (_mm_loadu_si128(first.cast()), _mm_loadu_si128(second.cast())) };
        _mm256_or_si256(_mm256_cvtepu16_epi32(a), _mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(b)))
    }
}

/// The nearest bf16 in the upper half of each number, as [`crate::ops::round::bits`] gives it.
#[inline]
#[target_feature(enable = "avx2")]
fn round(x: __m256) -> __m256i {
    let all = _mm256_castps_si256(x);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(all), _mm256_set1_epi32(1));
    let nearest = _mm256_add_epi32(all, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    let quiet = _mm256_or_si256(all, _mm256_set1_epi32(0x40_0000));
    _mm256_blendv_epi8(nearest, quiet, _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands at this place of the packed form.
    fn expected<T: Packable>(matrix: Matrix<T>, role: Role, sliver_of: usize, line: usize, pair: usize) -> u32 {
        let (step, line) = (line / SIDE, line % SIDE);
        let (across, k) = match role {
            Role::A => (line, step * SIDE + 2 * pair),
            Role::B => (line / TILE * TILE + pair, step * SIDE + 2 * (line % TILE)),
        };
        let across = sliver_of * SIDE + across;
        let bits = |k: usize| {
            let (row, column) = if role == Role::A { (across, k) } else { (k, across) };
            let Layout { rows, columns, row_stride, column_stride } = matrix.layout;
            let inside = row < rows && column < columns;
            if inside { matrix.numbers[row * row_stride + column * column_stride].rounded().to_bits() } else { 0 }
        };
        u32::from(bits(k)) | u32::from(bits(k + 1)) << 16
    }

    fn check<T: Packable>(numbers: &[T], rows: usize, columns: usize) {
        let spread = Layout { rows, columns, row_stride: 2 * columns + 1, column_stride: 2 };
        let layouts = [
            Layout::plain(rows, columns),
            Layout::plain(columns, rows).transposed(),
            Layout::part(rows, columns, columns + 3),
            Layout::part(columns, rows, rows + 3).transposed(),
            spread,
        ];
        for (layout, role) in layouts.into_iter().flat_map(|layout| [(layout, Role::A), (layout, Role::B)]) {
            let matrix = layout.of(numbers);
            let (across, depth) = if role == Role::A { (rows, columns) } else { (columns, rows) };
            // What was there before must not matter.
            let mut packed = vec![Line([u32::MAX; 16]); 1000];
            let lines = pack(matrix, role, &mut packed, Threads::All);
            assert_eq!(lines, across.div_ceil(SIDE) * sliver(depth));
            for (i, line) in packed[..lines].iter().enumerate() {
                let (sliver_of, at) = (i / sliver(depth), i % sliver(depth));
                let all = std::array::from_fn(|pair| expected(matrix, role, sliver_of, at, pair));
                assert!(line.0 == all, "{layout:?} as {role:?}, line {i}: {:x?}, not {all:x?}", line.0);
            }
        }
    }

    #[test]
    fn every_number_stands_rounded_in_its_place() {
        // All exponents, with ties, infinities and what is no number among them.
        let special = [0x7f80_0001u32, 0xff80_0001, 0x7fff_ffff, 0x7f80_0000, 0x7f7f_ffff, 1, 0x3f80_8000, 0x3f81_8000];
        let bits = (0..10_000u32).map(|i| special.get(i as usize % 97).copied().unwrap_or(i.wrapping_mul(0x9e37_79b1)));
        let numbers: Vec<f32> = bits.map(f32::from_bits).collect();
        let rounded: Vec<bf16> = numbers.iter().map(|x| x.rounded()).collect();
        for (rows, columns) in [(32, 32), (33, 50), (70, 31), (1, 65), (64, 1)] {
            check(&numbers, rows, columns);
            check(&rounded, rows, columns);
        }
    }
}
