//! Rounding to bf16: to the nearest, ties to even; what is not a number stays none.

use half::bf16;

use crate::ops::simd::vectorised;

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
