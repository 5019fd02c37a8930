//! Matrix products over parts of slices: of f32 here, with operands rounded to bf16 in [`bf16`].

#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod kernels;
mod operands;
mod processor;
#[cfg(target_arch = "x86_64")]
mod turn;

pub use bf16::{Bf16Kernel, Bf16Support, bf16_support};
pub(super) use bf16::{Epilogue, Factor, Output, Packed, Piece, packed_product, product_bf16};
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) use bf16::{Kernel, tests::with_kernel};
pub use kernels::MatmulKernel;
pub(super) use operands::{Into, Layout, Matrix, Threads};

/// `dst = scale · a · b`, or with [`Into::Onto`] `dst += …`; `layout` says where in `dst`.
pub(super) fn product(
    (dst, layout, into): (&mut [f32], Layout, Into),
    scale: f32,
    a: Matrix,
    b: Matrix,
    threads: Threads,
) {
    let (la, lb) = (a.layout, b.layout);
    assert!(la.columns == lb.rows && layout.rows == la.rows && layout.columns == lb.columns, "shapes fit");
    assert!(layout.span() <= dst.len(), "{layout:?} does not lie in {} numbers", dst.len());
    // Small products, such as those of one attention head, are over before packing pays.
    #[cfg(target_arch = "x86_64")]
    if layout.rows * layout.columns * la.columns >= 1 << 19 && avx512::is_available() {
        return avx512::product((dst, layout, into), scale, a, b, threads);
    }
    by_crate((dst, layout, into), scale, a, b, threads);
}

/// The same by the gemm crate, which has kernels for AVX2 and NEON.
#[allow(unsafe_code)]
fn by_crate((dst, layout, into): (&mut [f32], Layout, Into), scale: f32, a: Matrix, b: Matrix, threads: Threads) {
    let (la, lb) = (a.layout, b.layout);
    let stride = |s: usize| s as isize;
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(rayon::current_num_threads()),
    };
    // SAFETY: every index that gemm touches lies within the span of its layout, which was checked against its slice
    // when the matrix was made, and by `product` for dst; dst is borrowed mutably, so it overlaps neither a nor b.
    unsafe {
        gemm::gemm(
            layout.rows,
            layout.columns,
            la.columns,
            dst.as_mut_ptr(),
            stride(layout.column_stride),
            stride(layout.row_stride),
            into == Into::Onto,
            a.numbers.as_ptr(),
            stride(la.column_stride),
            stride(la.row_stride),
            b.numbers.as_ptr(),
            stride(lb.column_stride),
            stride(lb.row_stride),
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(count: usize, phase: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
    }

    type Kernel = fn((&mut [f32], Layout, Into), f32, Matrix, Matrix, Threads);

    /// Every kernel that this machine can run, against sums in f64, over shapes around the sizes of tiles and blocks,
    /// all four ways of transposing, a destination with gaps, and both ways of writing.
    #[test]
    fn products_agree_with_f64() {
        let mut kernels: Vec<(&str, Kernel)> = vec![("gemm crate", by_crate)];
        #[cfg(target_arch = "x86_64")]
        if avx512::is_available() {
            kernels.push(("avx512 of AMD", avx512::OfAmd::product));
            kernels.push(("avx512 of Intel", avx512::OfIntel::product));
        }
        let sides = [1, 2, 7, 8, 9, 16, 31, 48, 49, 97, 200];
        let shapes = sides.iter().flat_map(|&m| sides.iter().map(move |&n| (m, n, (m * 7 + n * 3) % 83 + 1)));
        for (m, n, k) in shapes.chain([(5, 6, 0), (9, 50, 512), (9, 50, 513), (17, 49, 1200), (150, 160, 1025)]) {
            let (a, b) = (wave(m * k, 0.1), wave(k * n, 0.7));
            for way in 0..8 {
                let layout = |rows, columns, turned: bool| {
                    if turned { Layout::plain(columns, rows).transposed() } else { Layout::plain(rows, columns) }
                };
                let (la, lb) = (layout(m, k, way & 1 > 0).of(&a), layout(k, n, way & 2 > 0).of(&b));
                let gap = 3;
                let place = if way & 4 > 0 { Layout::part(m, n, n + gap) } else { Layout::plain(n, m).transposed() };
                let before = wave(m * (n + gap), 0.3);
                let at = |l: Layout, i: usize, j: usize| i * l.row_stride + j * l.column_stride;
                // Of each number, the sum of its terms and of their sizes.
                let sum = |i: usize, j: usize| {
                    let term = |x| f64::from(a[at(la.layout, i, x)]) * f64::from(b[at(lb.layout, x, j)]);
                    (0..k).map(term).fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
                };
                let sums: Vec<(f64, f64)> = (0..m * n).map(|at| sum(at / n, at % n)).collect();
                for (name, kernel) in &kernels {
                    for (into, threads) in [(Into::Over, Threads::One), (Into::Onto, Threads::All)] {
                        let mut dst = before.clone();
                        kernel((&mut dst, place, into), 0.5, la, lb, threads);
                        let mut untouched = vec![true; dst.len()];
                        for i in 0..m {
                            for j in 0..n {
                                let (sum, size) = sums[i * n + j];
                                let here = at(place, i, j);
                                let old = if into == Into::Onto { f64::from(before[here]) } else { 0.0 };
                                let (ours, exact) = (f64::from(dst[here]), old + 0.5 * sum);
                                untouched[here] = false;
                                let close = (ours - exact).abs() < 1e-6 * (1.0 + size);
                                assert!(close, "{name}, {m}×{k}×{n}, way {way}, {into:?}: {ours}, not {exact}");
                            }
                        }
                        let kept = (0..dst.len()).filter(|&i| untouched[i]).all(|i| dst[i] == before[i]);
                        assert!(kept, "{name}, {m}×{k}×{n}, way {way}: wrote past the matrix");
                    }
                }
            }
        }
    }

    #[test]
    fn products_of_parts_and_transposes() {
        // a: columns 1 and 2 of a 2 × 4; b: the transpose of a plain 3 × 2; dst: the right part of a 2 × 5.
        let a = [9.0, 1.0, 2.0, 9.0, 9.0, 3.0, 4.0, 9.0];
        let b = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut dst = [7.0; 10];
        let l_dst = Layout::part(2, 3, 5);
        let (a, b) = (Layout::part(2, 2, 4).of(&a[1..]), Layout::plain(3, 2).of(&b).transposed());
        product((&mut dst[2..], l_dst, Into::Over), 2.0, a, b, Threads::One);
        assert_eq!(dst, [7.0, 7.0, 10.0, 22.0, 34.0, 7.0, 7.0, 22.0, 50.0, 78.0]);
        product((&mut dst[2..], l_dst, Into::Onto), 1.0, a, b, Threads::One);
        assert_eq!(dst, [7.0, 7.0, 15.0, 33.0, 51.0, 7.0, 7.0, 33.0, 75.0, 117.0]);
    }

    #[test]
    #[should_panic(expected = "does not lie in")]
    fn a_matrix_past_its_slice_is_refused() {
        Layout::part(2, 2, 5).of(&[0.0; 6]);
    }

    #[test]
    #[should_panic(expected = "does not lie in")]
    fn a_product_past_its_slice_is_refused() {
        let square = Layout::plain(2, 2).of(&[0.0; 4]);
        product((&mut [0.0; 3], Layout::plain(2, 2), Into::Over), 1.0, square, square, Threads::One);
    }
}
