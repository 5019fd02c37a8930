//! Softmax over the last dimension with a gradient (candle's `softmax_last_dim` has none).

use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::simd::{self, vectorised};

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

vectorised! {
    /// One row in place.
    fn softmax_row(row: &mut [f32]) {
        let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
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
            y.copy_from_slice(x);
            y.chunks_exact_mut(width).for_each(softmax_row);
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
                        dx.copy_from_slice(g);
                        softmax_row_bwd(y, dx);
                    }
                });
            })
        })??;
        Tensor::from_vec(dx, y.dims(), y.device()).map(Some)
    }
}
