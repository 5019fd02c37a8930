//! Squares turned in registers.

use std::arch::x86_64::*;

/// Columns as rows, of eight by eight numbers of 32 bits.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn turn(rows: [__m256; 8]) -> [__m256; 8] {
    let pairs: [__m256; 8] = std::array::from_fn(|i| {
        let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm256_unpacklo_ps(a, b) } else { _mm256_unpackhi_ps(a, b) }
    });
    // Quarters of columns: (rows 0 to 3, columns 0, 1, 2, 3 | 4, 5, 6, 7), then rows 4 to 7.
    let fours: [__m256; 8] = std::array::from_fn(|i| {
        let (half, column) = (i / 4 * 4, i % 4);
        let (a, b) = (pairs[half + column / 2], pairs[half + 2 + column / 2]);
        if column % 2 == 0 { _mm256_shuffle_ps::<0x44>(a, b) } else { _mm256_shuffle_ps::<0xee>(a, b) }
    });
    std::array::from_fn(|i| {
        let (upper, lower) = (fours[i % 4], fours[4 + i % 4]);
        if i < 4 { _mm256_permute2f128_ps::<0x20>(upper, lower) } else { _mm256_permute2f128_ps::<0x31>(upper, lower) }
    })
}
