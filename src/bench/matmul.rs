//! How many multiply-adds this machine does a second: what a training step is measured against.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use crate::ops::{Value, linear_no_bias};

/// 10⁹ floating-point operations a second (two to a multiply-add) in the best of several products of the size that a
/// ViT-B's feed-forward layer has, on all threads; on a GPU of one that fills it. Factors are of type `products`.
///
/// # Errors
/// Whatever the device reports.
pub fn matmul_gflops(device: &Device, products: DType) -> Result<f64> {
    const ROUNDS: usize = 15;
    let (rows, inner, outer) = if device.is_cuda() { (8192, 8192, 8192) } else { (1024, 768, 3072) };
    let random =
        |shape: (usize, usize)| anyhow::Ok(Value::from(Tensor::randn(0f32, 1.0, shape, device)?.to_dtype(products)?));
    let (x, weight) = (random((rows, inner))?, random((outer, inner))?);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        linear_no_bias(&x, &weight)?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(2.0 * (rows * inner * outer) as f64 / best / 1e9)
}
