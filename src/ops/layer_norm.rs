//! Layer normalisation with a gradient (candle's fused one has none).

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::simd::{self, vectorised};

/// `(x - mean) / sqrt(variance + eps) · weight + bias` over the last dimension. x: (…, width), weight and bias: (width).
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !cpu::is_cpu_f32(x) {
        return super::reference::layer_norm(x, weight, bias, eps);
    }
    x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, LayerNorm { eps: eps as f32 })
}

struct LayerNorm {
    eps: f32,
}

/// Mean and reciprocal standard deviation of one row.
#[inline(always)]
fn statistics(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = simd::sum(row.len(), |i| row[i]) / n;
    let variance = simd::sum(row.len(), |i| (row[i] - mean) * (row[i] - mean)) / n;
    (mean, (variance + eps).sqrt().recip())
}

vectorised! {
    fn layer_norm_row(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
        let (mean, rstd) = statistics(x, eps);
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = (x - mean) * rstd * w + b;
        }
    }
}

vectorised! {
    /// dx of one row; adds its share of dweight and dbias.
    fn layer_norm_row_bwd(
        x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32], db: &mut [f32],
    ) {
        // One length for all, so that the loops need no bounds checks.
        let n = x.len();
        let (w, g, dx, dw, db) = (&w[..n], &g[..n], &mut dx[..n], &mut dw[..n], &mut db[..n]);
        let (mean, rstd) = statistics(x, eps);
        let mean_gw = simd::sum(n, |i| g[i] * w[i]) / n as f32;
        let mean_gwx = simd::sum(n, |i| g[i] * w[i] * ((x[i] - mean) * rstd)) / n as f32;
        for i in 0..n {
            let normed = (x[i] - mean) * rstd;
            dw[i] += g[i] * normed;
            db[i] += g[i];
            dx[i] = rstd * (g[i] * w[i] - mean_gw - normed * mean_gwx);
        }
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, b) = (cpu::slice(x, lx)?, cpu::slice(w, lw)?, cpu::slice(b, lb)?);
        let width = lx.dims().last().copied().unwrap_or(1);
        if w.len() != width || b.len() != width {
            candle_core::bail!("layer_norm: width {width}, but weight has {} and bias {}", w.len(), b.len());
        }
        let mut y = vec![0f32; x.len()];
        let block = width * cpu::ROWS_PER_TASK;
        y.par_chunks_mut(block).zip(x.par_chunks(block)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                layer_norm_row(x, w, b, self.eps, y);
            }
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        const ROWS_PER_PARTIAL: usize = 64;
        let width = x.dim(D::Minus1)?;
        let mut dx = vec![0f32; x.elem_count()];
        let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
        cpu::with_slice(x, |xs| {
            cpu::with_slice(w, |ws| {
                cpu::with_slice(grad, |gs| {
                    let block = width * ROWS_PER_PARTIAL;
                    let partials: Vec<(Vec<f32>, Vec<f32>)> = dx
                        .par_chunks_mut(block)
                        .zip(xs.par_chunks(block))
                        .zip(gs.par_chunks(block))
                        .map(|((dx, x), g)| {
                            let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
                            let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(g.chunks_exact(width));
                            for ((dx, x), g) in rows {
                                layer_norm_row_bwd(x, ws, g, self.eps, dx, &mut dw, &mut db);
                            }
                            (dw, db)
                        })
                        .collect();
                    for (pw, pb) in &partials {
                        dw.iter_mut().zip(pw).for_each(|(s, p)| *s += p);
                        db.iter_mut().zip(pb).for_each(|(s, p)| *s += p);
                    }
                })
            })
        })???;
        let device = x.device();
        let wanted = |t: &Tensor, v: Vec<f32>| -> Result<Option<Tensor>> {
            if t.track_op() { Tensor::from_vec(v, t.dims(), device).map(Some) } else { Ok(None) }
        };
        Ok((wanted(x, dx)?, wanted(w, dw)?, wanted(b, db)?))
    }
}
