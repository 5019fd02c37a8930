//! Layer normalisation.

use candle_core::{D, DType, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;
use super::cuda;
use super::gradient::Gradient;
use super::profile::{self, Part};
use super::reference;
use super::round;
use super::simd::{self, vectorised};
use super::tape::{Value, composed, in_bf16};

/// `(x - mean) / sqrt(variance + eps) · weight + bias` over the last dimension. x: (…, width), weight and bias:
/// (width).
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Value, weight: &Value, bias: &Value, eps: f64) -> Result<Value> {
    normed(x, weight, bias, eps, false)
}

/// [`layer_norm`] for an output that only products read: where those are in bf16, it is rounded to that and kept so.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm_operand(x: &Value, weight: &Value, bias: &Value, eps: f64) -> Result<Value> {
    normed(x, weight, bias, eps, true)
}

fn normed(x: &Value, weight: &Value, bias: &Value, eps: f64, narrow: bool) -> Result<Value> {
    let _timed = profile::enter(Part::LayerNorm);
    let x = &x.widened()?;
    let inputs = [x, weight, bias];
    let narrow = narrow && in_bf16(&inputs);
    if cuda::has_kernels(x.tensor()) {
        return cuda::layer_norm(x, weight, bias, eps, if narrow { DType::BF16 } else { DType::F32 });
    }
    if !cpu::has_kernels(x.tensor()) {
        let y = composed(&inputs, move |t| reference::layer_norm(t[0], t[1], t[2], eps))?;
        return if narrow { y.as_operand() } else { Ok(y) };
    }
    let y = forward(x.tensor(), weight.tensor(), bias.tensor(), eps as f32, narrow)?;
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(Value::record(y, &inputs, move |grad| backward(&x, &weight, &bias, eps as f32, &grad)))
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
    /// Adds what one row gives to dx, dweight and dbias.
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
            dx[i] += rstd * (g[i] * w[i] - mean_gw - normed * mean_gwx);
        }
    }
}

fn forward(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f32, narrow: bool) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    let (xs, w, b) = (cpu::read(x)?, cpu::read(weight)?, cpu::read(bias)?);
    if w.len() != width || b.len() != width {
        bail!("layer_norm: width {width}, but weight has {} and bias {}", w.len(), b.len());
    }
    let block = width * cpu::ROWS_PER_TASK;
    if narrow {
        let mut y = overwritten::<bf16>(xs.len());
        y.par_chunks_mut(block).zip(xs.par_chunks(block)).for_each(|(y, x)| {
            let mut row = vec![0f32; width];
            y.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(y, x)| {
                layer_norm_row(x, &w, &b, eps, &mut row);
                round::narrow(&row, y);
            });
        });
        return Tensor::from_vec(y, x.dims(), x.device());
    }
    let mut y = overwritten::<f32>(xs.len());
    y.par_chunks_mut(block).zip(xs.par_chunks(block)).for_each(|(y, x)| {
        y.chunks_exact_mut(width).zip(x.chunks_exact(width)).for_each(|(y, x)| layer_norm_row(x, &w, &b, eps, y));
    });
    Tensor::from_vec(y, x.dims(), x.device())
}

fn backward(x: &Value, weight: &Value, bias: &Value, eps: f32, grad: &Tensor) -> Result<()> {
    let width = x.tensor().dim(D::Minus1)?;
    let (xs, ws, gs) = (cpu::read(x.tensor())?, cpu::read(weight.tensor())?, cpu::read(grad)?);
    let sums = std::cell::Cell::new((Vec::new(), Vec::new()));
    let add_to = |dx: &mut [f32]| sums.set(add_gradients(&xs, &ws, &gs, eps, dx));
    if x.wants_grad() {
        // A block's residual has left its gradient there: one pass adds to it.
        x.update_grad(|before| {
            let dx = match before {
                Some(before) => cpu::widened(before.into_dense()?)?,
                None => x.tensor().zeros_like()?,
            };
            cpu::write(&dx, add_to)?;
            Ok(Gradient::Dense(dx))
        })?;
    } else {
        add_to(&mut vec![0f32; xs.len()]);
    }
    let (dw, db) = sums.into_inner();
    for (value, sums) in [(weight, dw), (bias, db)] {
        if value.wants_grad() {
            value.add_grad(Tensor::from_vec(sums, width, grad.device())?)?;
        }
    }
    Ok(())
}

/// Adds to dx; returns dweight and dbias, added up in blocks whose size does not depend on the number of threads.
fn add_gradients(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
    const ROWS_PER_PARTIAL: usize = 64;
    let width = w.len();
    let block = width * ROWS_PER_PARTIAL;
    let blocks = dx.par_chunks_mut(block).zip(x.par_chunks(block)).zip(g.par_chunks(block));
    let partials: Vec<(Vec<f32>, Vec<f32>)> = blocks
        .map(|((dx, x), g)| {
            let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
            let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(g.chunks_exact(width));
            rows.for_each(|((dx, x), g)| layer_norm_row_bwd(x, w, g, eps, dx, &mut dw, &mut db));
            (dw, db)
        })
        .collect();
    let (mut dw, mut db) = (vec![0f32; width], vec![0f32; width]);
    for (pw, pb) in &partials {
        dw.iter_mut().zip(pw).for_each(|(s, p)| *s += p);
        db.iter_mut().zip(pb).for_each(|(s, p)| *s += p);
    }
    (dw, db)
}
