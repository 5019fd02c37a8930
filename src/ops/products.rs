//! Products of vectors with rows, for code that goes through blocks of rows side by side, and for one that does not.

use super::gemm::{Into, Layout, Threads, product};

/// `out[i][j] = x[i] · rows[j]`, of vectors of `width` numbers, row after row: (m, width), (n, width) → (m, n). On the
/// calling thread.
///
/// # Panics
/// Numbers that are no such matrices.
pub fn products(x: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
    products_on(Threads::One, x, rows, width, out);
}

/// The same, on all threads.
///
/// # Panics
/// As there.
pub fn products_on_all(x: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
    products_on(Threads::All, x, rows, width, out);
}

fn products_on(threads: Threads, x: &[f32], rows: &[f32], width: usize, out: &mut [f32]) {
    let (m, n) = (x.len() / width, rows.len() / width);
    let rows = Layout::plain(n, width).of(rows).transposed();
    product((out, Layout::plain(m, n), Into::Over), 1.0, Layout::plain(m, width).of(x), rows, threads);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vector_meets_each_row() {
        for products in [products, products_on_all] {
            let mut out = [0.0; 6];
            products(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 2, &mut out);
            assert_eq!(out, [17.0, 23.0, 29.0, 39.0, 53.0, 67.0]);
        }
    }
}
