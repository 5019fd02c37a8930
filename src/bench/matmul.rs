//! How many multiply-adds this machine does a second: what a training step is measured against.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

use serde::Serialize;

use crate::ops::{MatmulKernel, Value, linear_no_bias};

const ROUNDS: usize = 15;
/// Rows, inner and outer side of a product in a ViT-B's feed-forward layer.
const SHAPE: (usize, usize, usize) = (1024, 768, 3072);

/// 10⁹ floating-point operations a second (two to a multiply-add) in the best of several products of the size that a
/// ViT-B's feed-forward layer has, on all threads; on a GPU of one that fills it. Factors are of type `products`.
///
/// # Errors
/// Whatever the device reports.
pub fn matmul_gflops(device: &Device, products: DType) -> Result<f64> {
    let (rows, inner, outer) = if device.is_cuda() { (8192, 8192, 8192) } else { SHAPE };
    // On a GPU the operands are bf16 to begin with; the CPU's kernels round them as they pack.
    let own = if device.is_cpu() { DType::F32 } else { products };
    let random = |shape: (usize, usize)| {
        let numbers = Tensor::randn(0f32, 1.0, shape, device)?.to_dtype(own)?;
        anyhow::Ok(Value::from(numbers).with_products(products))
    };
    let (x, weight) = (random((rows, inner))?, random((outer, inner))?);
    fastest((rows, inner, outer), || {
        linear_no_bias(&x, &weight)?;
        Ok(device.synchronize()?)
    })
}

/// 10⁹ operations a second in the fastest of some products of this size.
fn fastest((rows, inner, outer): (usize, usize, usize), mut product: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        product()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(2.0 * (rows * inner * outer) as f64 / best / 1e9)
}

/// What one kernel of the CPU's reaches.
#[derive(Clone, Debug, Serialize)]
pub struct KernelFigures {
    /// What it is called.
    pub kernel: &'static str,
    /// Whether it is the one that large products go to.
    pub chosen: bool,
    /// 10⁹ floating-point operations a second.
    pub gflops: f64,
}

/// Each of this machine's kernels for products in `products` on the CPU, all threads, the size as in
/// [`matmul_gflops`]. Operands and result are f32: those in bf16 round and pack both within the time.
///
/// # Errors
/// None in practice.
pub fn matmul_kernels(products: DType) -> Result<Vec<KernelFigures>> {
    let (rows, inner, outer) = SHAPE;
    let wave = |count: usize| (0..count).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let (x, weight, mut y) = (wave(rows * inner), wave(outer * inner), vec![0f32; rows * outer]);
    let figures = |kernel: MatmulKernel| {
        let gflops = fastest(SHAPE, || {
            kernel.multiply(SHAPE, &x, &weight, &mut y);
            Ok(())
        })?;
        Ok(KernelFigures { kernel: kernel.name, chosen: kernel.chosen, gflops })
    };
    MatmulKernel::all(products).into_iter().map(figures).collect()
}
