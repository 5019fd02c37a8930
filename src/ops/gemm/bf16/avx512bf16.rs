//! Blocks of 32 by 32 results on a processor with AVX512-BF16 and no tile registers, as AMD's from Zen 4 on: eight rows
//! at a time, whose 16 vectors of results stay in registers along the whole shared side.

use std::arch::x86_64::*;

use super::blocks::{Blocks, Sums};
use super::pack::{Line, SIDE, TILE};
use super::support;

/// Rows whose results are in registers together: 16 of 32 registers, enough to hide how long each addition takes.
const ROWS: usize = 8;

/// A processor that has it.
pub(super) struct Avx512Bf16(());

impl Blocks for Avx512Bf16 {
    fn start() -> Self {
        assert!(support::has_avx512_bf16(), "the processor has AVX512-BF16");
        Self(())
    }

    #[allow(unsafe_code)]
    fn block(&mut self, a: &[Line], b: &[Line], sums: &mut Sums) {
        for first in (0..SIDE).step_by(ROWS) {
            // SAFETY: a value of this type is made only where the processor has the features.
            unsafe { rows(a, b, first, &mut sums.0[first * SIDE..]) };
        }
    }
}

/// [`ROWS`] rows of a block, from the row `first` of `a` on, to `to`.
#[allow(unsafe_code)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn rows(a: &[Line], b: &[Line], first: usize, to: &mut [f32]) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (a, b) in a.as_chunks::<SIDE>().0.iter().zip(b.as_chunks::<SIDE>().0) {
        for pair in 0..TILE {
            let of_b = [vector(&b[pair]), vector(&b[TILE + pair])];
            for (sums, line) in sums.iter_mut().zip(&a[first..first + ROWS]) {
                let x = pairs(_mm512_set1_epi32(line.0[pair].cast_signed()));
                for (sum, y) in sums.iter_mut().zip(of_b) {
                    *sum = _mm512_dpbf16_ps(*sum, x, y);
                }
            }
        }
    }
    for (sums, to) in sums.iter().zip(to.as_chunks_mut::<SIDE>().0) {
        // SAFETY: two vectors are 32 numbers.
        unsafe {
            _mm512_storeu_ps(to.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(to.as_mut_ptr().add(TILE), sums[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn vector(line: &Line) -> __m512bh {
    #[allow(unsafe_code)]
    // SAFETY: a line is 64 bytes, aligned to as many.
    pairs(unsafe { _mm512_load_si512(line.0.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs(x: __m512i) -> __m512bh {
    #[allow(unsafe_code)]
    // SAFETY: both are 64 bytes of any value; there is no intrinsic for the change of type.
    unsafe {
        std::mem::transmute(x)
    }
}
