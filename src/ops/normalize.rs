//! Norms.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::cpu;

/// Rows divided by their Euclidean norm, which is taken as at least 1e-12 (`torch.nn.functional.normalize`), so that a
/// zero row stays zero with a finite gradient. x: (…, width).
///
/// # Errors
/// Whatever the device reports.
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    // The bound is put under the root: the root's own gradient at 0 is infinite.
    let norm = x.sqr()?.sum_keepdim(D::Minus1)?.maximum(1e-24)?.sqrt()?;
    x.broadcast_div(&norm)
}

/// Sum of squares, added in f64 in an order that does not depend on the number of threads.
///
/// # Errors
/// Whatever the device reports.
pub fn squared_sum(x: &Tensor) -> Result<f64> {
    const BLOCK: usize = 1 << 16;
    if !cpu::is_cpu_f32(x) {
        return x.to_dtype(candle_core::DType::F64)?.sqr()?.sum_all()?.to_scalar();
    }
    let sum_block = |block: &[f32]| block.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
    cpu::with_slice(x, |x| x.par_chunks(BLOCK).map(sum_block).collect::<Vec<f64>>().iter().sum())
}
