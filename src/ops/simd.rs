//! Loops that the compiler turns into vector instructions, compiled once for every x86-64, once for AVX2 and once for
//! AVX-512. All three give the same bits: nothing is contracted, and sums have lanes of their own.

/// Defines a function, safe or not, whose body is compiled three times; the widest copy that the processor has the
/// features for runs.
macro_rules! vectorised {
    ($(#[$doc:meta])* fn $($rest:tt)*) => {
        $crate::ops::simd::vectorised!(@copies () $(#[$doc])* fn $($rest)*);
    };
    ($(#[$doc:meta])* unsafe fn $($rest:tt)*) => {
        $crate::ops::simd::vectorised!(@copies (unsafe) $(#[$doc])* fn $($rest)*);
    };
    (@copies ($($unsafe:tt)?) $(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)?
        $body:block
    ) => {
        $(#[$doc])*
        #[allow(unsafe_code, clippy::too_many_arguments)]
        pub(super) $($unsafe)? fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            $($unsafe)? fn body($($arg: $type),*) $(-> $ret)? $body
            // SAFETY, of the blocks below: the processor has the features that a copy is compiled for, as was just
            // asked; whatever else the code asks for, the caller of an unsafe function has promised.
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                $($unsafe)? fn widest($($arg: $type),*) $(-> $ret)? { $($unsafe)? { body($($arg),*) } }
                #[target_feature(enable = "avx2,fma")]
                $($unsafe)? fn wide($($arg: $type),*) $(-> $ret)? { $($unsafe)? { body($($arg),*) } }
                if $crate::ops::simd::has_avx512() {
                    return unsafe { widest($($arg),*) };
                }
                if $crate::ops::simd::has_avx2() {
                    return unsafe { wide($($arg),*) };
                }
            }
            $($unsafe)? { body($($arg),*) }
        }
    };
}
pub(super) use vectorised;

/// Whether the processor, and the system, have what the copies for AVX2 need. The standard library asks once.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

/// The same of the copies for AVX-512.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && has_avx2()
}

/// Sum of `f(0) … f(n - 1)` in eight running sums: a single one would wait for each addition. The order is fixed.
#[inline(always)]
pub(super) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 8];
    let whole = n / 8 * 8;
    for start in (0..whole).step_by(8) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            let at = start + lane;
            #[allow(unsafe_code)]
            // SAFETY: eights end at `whole`, which is no more than `n`.
            unsafe {
                // Without this, `f` checks each index, which keeps the lanes out of vectors.
                std::hint::assert_unchecked(at < n);
            }
            *total += f(at);
        }
    }
    let tail: f32 = (whole..n).map(&f).sum();
    lanes.iter().sum::<f32>() + tail
}

/// The largest of `row`, past any NaN; −∞ where there is none. In eight running maxima, as [`sum`].
#[inline(always)]
pub(super) fn max(row: &[f32]) -> f32 {
    let larger = |m: f32, v: f32| if v > m { v } else { m };
    let (eights, rest) = row.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for eight in eights {
        lanes.iter_mut().zip(eight).for_each(|(m, &v)| *m = larger(*m, v));
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| larger(m, v))
}

/// eˣ within 3e-7 of the true value, relative; 0 below −87, e⁸⁸ above 88. The standard library's is
/// a call for each number.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let bounded = x.clamp(-87.0, 88.0);
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * LN2_HIGH - n * LN2_LOW; // |r| ≤ ln 2 / 2
    // Taylor's terms up to r⁷ / 7!.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127);
    let y = p * f32::from_bits((exponent << 23) as u32);
    if x < -87.0 { 0.0 } else { y }
}

/// The error function within 5e-7, absolute: the quotient of polynomials that Eigen uses (generic_fast_erf), since the
/// standard library has none.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    // From there on it is 1 but for 7e-8, and the quotient drifts.
    let x = x.clamp(-3.83, 3.83);
    let square = x * x;
    let mut p = -2.726_142_3e-10;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_4e-5, -7.349_906e-4, -2.954_6e-3, -1.609_603_4e-2] {
        p = p * square + c;
    }
    let mut q = -1.456_607_2e-5;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2] {
        q = q * square + c;
    }
    x * p / q
}

#[cfg(test)]
mod tests {
    #[test]
    fn erf_is_exact_enough_everywhere() {
        for i in -60_000..=60_000 {
            let x = i as f32 * 1e-4;
            let (ours, true_value) = (f64::from(super::erf(x)), candle_core::cpu::erf::erf_f64(f64::from(x)));
            assert!((ours - true_value).abs() < 5e-7, "{x}: {ours} and {true_value}");
        }
        assert!(super::erf(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_exact_enough_everywhere() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (ours, true_value) = (f64::from(super::exp(x)), f64::from(x).exp());
            assert!((ours / true_value - 1.0).abs() < 3e-7, "{x}: {ours} and {true_value}");
        }
        assert_eq!(super::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(super::exp(-1e30), 0.0);
        assert!(super::exp(f32::NAN).is_nan());
        assert!(super::exp(1e30).is_finite() && super::exp(1e30) > 1e38);
    }

    #[test]
    fn the_largest_is_found_wherever_it_stands() {
        for n in 1..40 {
            for at in 0..n {
                let mut row: Vec<f32> = (0..n).map(|i| -1.0 - i as f32).collect();
                row[(at + 1) % n] = f32::NAN;
                row[at] = 0.5;
                assert_eq!(super::max(&row), 0.5);
            }
        }
        assert_eq!(super::max(&[]), f32::NEG_INFINITY);
    }

    #[test]
    fn sums_are_whole() {
        for n in 0..40 {
            assert_eq!(super::sum(n, |i| i as f32), (0..n).sum::<usize>() as f32);
        }
    }
}
