//! Softmax of one row, and its gradient.

use super::simd::{self, vectorised};

vectorised! {
    /// One row in place, whose numbers from `seen` on count as −∞: they become 0 without being worked out.
    fn softmax_row(row: &mut [f32], seen: usize) {
        // Whole vectors: what is left of one is worked out number by number.
        let end = seen.next_multiple_of(8).min(row.len());
        row[seen..end].fill(f32::NEG_INFINITY);
        row[end..].fill(0.0);
        let max = simd::max(&row[..seen]);
        row[..end].iter_mut().for_each(|v| *v = simd::exp(*v - max));
        let scale = simd::sum(row.len(), |i| row[i]).recip();
        row[..end].iter_mut().for_each(|v| *v *= scale);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit for bit as if all were worked out.
    #[test]
    fn what_is_not_seen_becomes_zero() {
        for (n, seen) in (1..40usize).flat_map(|n| (1..=n).map(move |seen| (n, seen))) {
            let row: Vec<f32> = (0..n).map(|i| 3.0 * (i as f32 * 0.7).sin()).collect();
            let mut expected = row.clone();
            expected[seen..].fill(f32::NEG_INFINITY);
            softmax_row(&mut expected, n);
            let mut ours = row;
            softmax_row(&mut ours, seen);
            assert!(ours == expected && ours[seen..].iter().all(|p| *p == 0.0), "{seen} of {n}: {ours:?}");
            let sum: f64 = ours.iter().map(|p| f64::from(*p)).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        }
    }
}
