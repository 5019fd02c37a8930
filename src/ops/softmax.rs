//! Softmax of one row, and its gradient.

use super::simd::{self, vectorised};

vectorised! {
    /// One row in place.
    fn softmax_row(row: &mut [f32]) {
        let max = simd::max(row);
        row.iter_mut().for_each(|v| *v = simd::exp(*v - max));
        let scale = simd::sum(row.len(), |i| row[i]).recip();
        row.iter_mut().for_each(|v| *v *= scale);
    }
}

vectorised! {
    /// The gradient of one row, in place of the gradient of its softmax `y`.
    fn softmax_row_bwd(y: &[f32], grad: &mut [f32]) {
        let grad = &mut grad[..y.len()];
        let dot = simd::sum(y.len(), |i| y[i] * grad[i]);
        grad.iter_mut().zip(y).for_each(|(g, y)| *g = y * (*g - dot));
    }
}
