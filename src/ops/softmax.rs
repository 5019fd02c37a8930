//! Softmax over the last dimension with a gradient (candle's `softmax_last_dim` has none).

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;

/// Softmax over the last dimension; entries of −∞ get 0. A row of nothing but −∞ gives NaN, as in PyTorch.
///
/// # Errors
/// Whatever the device reports.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if !cpu::is_cpu_f32(x) {
        return super::reference::softmax(x);
    }
    x.contiguous()?.apply_op1(Softmax)
}

struct Softmax;

impl CustomOp1 for Softmax {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = cpu::slice(x, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut y = vec![0f32; x.len()];
        let block = width * cpu::ROWS_PER_TASK;
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let max = x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - max).exp());
                let scale = y.iter().sum::<f32>().recip();
                y.iter_mut().for_each(|y| *y *= scale);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = y.dim(D::Minus1)?;
        let mut dx = vec![0f32; y.elem_count()];
        let block = width * cpu::ROWS_PER_TASK;
        cpu::with_slice(y, |y| {
            cpu::with_slice(grad, |g| {
                dx.par_chunks_mut(block).zip(y.par_chunks(block)).zip(g.par_chunks(block)).for_each(|((dx, y), g)| {
                    let rows = dx.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(g.chunks_exact(width));
                    for ((dx, y), g) in rows {
                        let dot: f32 = y.iter().zip(g).map(|(y, g)| y * g).sum();
                        for i in 0..width {
                            dx[i] = y[i] * (g[i] - dot);
                        }
                    }
                });
            })
        })??;
        Tensor::from_vec(dx, y.dims(), y.device()).map(Some)
    }
}
