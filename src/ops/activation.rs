//! Activations of the feed-forward layers.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::simd::{self, vectorised};

/// Numbers handled by one task.
const BLOCK: usize = 1 << 14;

/// GELU with the error function, `torch.nn.GELU()`.
///
/// # Errors
/// Whatever the device reports.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// OpenAI CLIP's `x · sigmoid(1.702 x)`.
///
/// # Errors
/// Whatever the device reports.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_cpu_f32(x) {
        return super::reference::quick_gelu(x);
    }
    x.contiguous()?.apply_op1(QuickGelu)
}

struct QuickGelu;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    (1.0 + simd::exp(-x)).recip()
}

vectorised! {
    fn quick_gelu_block(x: &[f32], y: &mut [f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y = x * sigmoid(1.702 * x));
    }
}

vectorised! {
    fn quick_gelu_block_bwd(x: &[f32], grad: &[f32], dx: &mut [f32]) {
        for ((dx, x), g) in dx.iter_mut().zip(x).zip(grad) {
            let s = sigmoid(1.702 * x);
            *dx = g * s * (1.0 + 1.702 * x * (1.0 - s));
        }
    }
}

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| quick_gelu_block(x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = vec![0f32; x.elem_count()];
        cpu::with_slice(x, |x| {
            cpu::with_slice(grad, |g| {
                let blocks = dx.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).zip(g.par_chunks(BLOCK));
                blocks.for_each(|((dx, x), g)| quick_gelu_block_bwd(x, g, dx));
            })
        })??;
        Tensor::from_vec(dx, x.dims(), x.device()).map(Some)
    }
}
