//! Activations of the feed-forward layers.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;

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

fn sigmoid(x: f32) -> f32 {
    (1.0 + (-x).exp()).recip()
}

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick-gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * sigmoid(1.702 * x));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = vec![0f32; x.elem_count()];
        cpu::with_slice(x, |x| {
            cpu::with_slice(grad, |g| {
                dx.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).zip(g.par_chunks(BLOCK)).for_each(|((dx, x), g)| {
                    for i in 0..x.len() {
                        let s = sigmoid(1.702 * x[i]);
                        dx[i] = g[i] * s * (1.0 + 1.702 * x[i] * (1.0 - s));
                    }
                });
            })
        })??;
        Tensor::from_vec(dx, x.dims(), x.device()).map(Some)
    }
}
