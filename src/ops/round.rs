//! Between f32 and bf16. Rounding is to the nearest, ties to even; what is not a number stays none.

use half::bf16;

use super::simd::vectorised;

/// The upper half of the nearest f32 that has no lower one.
#[inline(always)]
pub(super) fn bits(x: f32) -> u16 {
    let all = x.to_bits();
    let nearest = all.wrapping_add(0x7fff + (all >> 16 & 1)) >> 16;
    // A number's rounding could carry a NaN over to another value; a set bit keeps it one.
    (if x.is_nan() { all >> 16 | 0x40 } else { nearest }) as u16
}

/// The same number. half's own conversion asks of each whether it is one.
#[inline(always)]
pub(super) fn widened(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

vectorised! {
    /// `to[i]` = the nearest bf16 of `from[i]`.
    fn narrow(from: &[f32], to: &mut [bf16]) {
        from.iter().zip(to).for_each(|(&x, y)| *y = bf16::from_bits(bits(x)));
    }
}

vectorised! {
    /// `to[i]` = `from[i]`.
    fn widen(from: &[bf16], to: &mut [f32]) {
        from.iter().zip(to).for_each(|(&x, y)| *y = widened(x));
    }
}

vectorised! {
    /// `to[i]` = the nearest bf16 of `from[i]`, as f32.
    fn round(from: &[f32], to: &mut [f32]) {
        from.iter().zip(to).for_each(|(&x, y)| *y = widened(bf16::from_bits(bits(x))));
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
            let (ours, theirs) = (bf16::from_bits(bits(x)), bf16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits(), "{i:#x}: {ours} and {theirs}");
            assert_eq!(x.is_nan(), ours.is_nan());
        }
    }
}
