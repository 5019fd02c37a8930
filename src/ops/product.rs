//! One small matrix product on the calling thread, over parts of larger arrays.

/// Where a matrix lies within a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    /// Index of its first number.
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    /// Distance between the starts of neighbouring rows.
    pub row_stride: usize,
    /// Distance between neighbouring numbers of a row.
    pub column_stride: usize,
}

impl Matrix {
    /// A whole slice, row after row.
    pub fn plain(rows: usize, columns: usize) -> Self {
        Self { offset: 0, rows, columns, row_stride: columns, column_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Index past its last number.
    fn end(&self) -> usize {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        self.offset + last(self.rows, self.row_stride) + last(self.columns, self.column_stride) + 1
    }
}

/// `dst = scale · a · b`, with the `l…` saying where each lies.
#[allow(unsafe_code, clippy::too_many_arguments)] // Three matrices, each with its place, and a factor.
pub(super) fn product(dst: &mut [f32], l_dst: Matrix, scale: f32, a: &[f32], l_a: Matrix, b: &[f32], l_b: Matrix) {
    assert!(l_a.columns == l_b.rows && l_dst.rows == l_a.rows && l_dst.columns == l_b.columns, "shapes fit");
    if l_dst.rows == 0 || l_dst.columns == 0 {
        return;
    }
    assert!(l_dst.end() <= dst.len() && l_a.end() <= a.len() && l_b.end() <= b.len(), "matrices lie in their slices");
    let stride = |s: usize| s as isize;
    // SAFETY: every index that gemm touches lies between the offset and the end of its matrix, which were just checked
    // against the slices; dst is borrowed mutably, so it overlaps neither a nor b.
    unsafe {
        gemm::gemm(
            l_dst.rows,
            l_dst.columns,
            l_a.columns,
            dst.as_mut_ptr().add(l_dst.offset),
            stride(l_dst.column_stride),
            stride(l_dst.row_stride),
            false,
            a.as_ptr().add(l_a.offset),
            stride(l_a.column_stride),
            stride(l_a.row_stride),
            b.as_ptr().add(l_b.offset),
            stride(l_b.column_stride),
            stride(l_b.row_stride),
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_parts_and_transposes() {
        // a: columns 1 and 2 of a 2 × 4; b: the transpose of a plain 3 × 2; dst: the right part of a 2 × 5.
        let a = [9.0, 1.0, 2.0, 9.0, 9.0, 3.0, 4.0, 9.0];
        let b = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let mut dst = [7.0; 10];
        let l_a = Matrix { offset: 1, rows: 2, columns: 2, row_stride: 4, column_stride: 1 };
        let l_dst = Matrix { offset: 2, rows: 2, columns: 3, row_stride: 5, column_stride: 1 };
        product(&mut dst, l_dst, 2.0, &a, l_a, &b, Matrix::plain(3, 2).transposed());
        assert_eq!(dst, [7.0, 7.0, 10.0, 22.0, 34.0, 7.0, 7.0, 22.0, 50.0, 78.0]);
    }

    #[test]
    #[should_panic(expected = "matrices lie in their slices")]
    fn a_matrix_past_its_slice_is_caught() {
        let l = Matrix { offset: 1, rows: 2, columns: 2, row_stride: 2, column_stride: 1 };
        product(&mut [0.0; 4], l, 1.0, &[0.0; 4], Matrix::plain(2, 2), &[0.0; 4], Matrix::plain(2, 2));
    }
}
