//! Rounding to bf16: to the nearest, ties to even; what is not a number stays none.

use half::bf16;
use rayon::prelude::*;

use crate::ops::gemm::operands::{Layout, Matrix, Threads};
use crate::ops::simd::vectorised;

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
        round_in_f32(from, to);
    }

    fn rounded(self) -> bf16 {
        bf16::from_bits(bits(self))
    }
}

impl Number for bf16 {
    fn widen(from: &[bf16], to: &mut [f32]) {
        widen(from, to);
    }

    fn rounded(self) -> bf16 {
        self
    }
}

/// The upper half of the nearest f32 that has no lower one.
#[inline(always)]
pub(super) fn bits(x: f32) -> u16 {
    let all = x.to_bits();
    let nearest = all.wrapping_add(0x7fff + (all >> 16 & 1)) >> 16;
    // A number's rounding could carry a NaN over to another value; a set bit keeps it one.
    (if x.is_nan() { all >> 16 | 0x40 } else { nearest }) as u16
}

vectorised! {
    fn round_in_f32(from: &[f32], to: &mut [f32]) {
        from.iter().zip(to).for_each(|(&x, y)| *y = f32::from_bits(u32::from(bits(x)) << 16));
    }
}

vectorised! {
    fn widen(from: &[bf16], to: &mut [f32]) {
        from.iter().zip(to).for_each(|(&x, y)| *y = f32::from_bits(u32::from(x.to_bits()) << 16));
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

vectorised! {
    /// `to[i]` = the nearest bf16 of `from[i]`.
    fn narrow(from: &[f32], to: &mut [bf16]) {
        from.iter().zip(to).for_each(|(&x, y)| *y = bf16::from_bits(bits(x)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_nearest_even_and_keeps_what_is_not_a_number() {
        let special = [0x7f80_0001, 0xff80_0001, 0x7fff_ffff, 0x7f80_0000, 0xff80_0000, 0x7f7f_ffff, 0, 1 << 31, 1];
        for i in (0..1 << 16).map(|i| i << 16 | 0x8000).chain((0..200_000).map(|i| i * 21_473)).chain(special) {
            let x = f32::from_bits(i);
            let (ours, theirs) = (x.rounded(), bf16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits(), "{i:#x}: {ours} and {theirs}");
            assert_eq!(x.is_nan(), ours.is_nan());
        }
    }
}
