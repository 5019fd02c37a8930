//! Layer normalisation.

use candle_core::{D, Result, Tensor, bail};
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

/// [`layer_norm`] for an output that only products read: where those are in bf16, it is rounded to that, and on the CPU
/// kept so.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm_operand(x: &Value, weight: &Value, bias: &Value, eps: f64) -> Result<Value> {
    normed(x, weight, bias, eps, true)
}

fn normed(x: &Value, weight: &Value, bias: &Value, eps: f64, narrow: bool) -> Result<Value> {
    let _timed = profile::enter(Part::LayerNorm);
    let x = &x.widened()?;
    if cuda::has_kernels(x.tensor()) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    if !cpu::has_kernels(x.tensor()) {
        let y = composed(&[x, weight, bias], move |t| reference::layer_norm(t[0], t[1], t[2], eps))?;
        return if narrow { y.as_operand() } else { Ok(y) };
    }
    let inputs = [x, weight, bias];
    let narrow = narrow && in_bf16(&inputs);
    let y = forward(x.tensor(), weight.tensor(), bias.tensor(), eps as f32, narrow)?;
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(Value::record(y, &inputs, move |grad| backward(&x, &weight, &bias, eps as f32, &grad)))
}

/// Rows whose numbers are added up together: alone, each addition of a row waits for the one before.
const TOGETHER: usize = 4;

/// Mean and reciprocal standard deviation of each row, of n numbers.
#[inline(always)]
fn statistics<const ROWS: usize>(rows: &[&[f32]; ROWS], n: usize, eps: f32) -> [(f32, f32); ROWS] {
    let means = simd::sums::<ROWS>(n, |r, i| rows[r][i]).map(|sum| sum / n as f32);
    let squares = simd::sums::<ROWS>(n, |r, i| (rows[r][i] - means[r]) * (rows[r][i] - means[r]));
    std::array::from_fn(|r| (means[r], (squares[r] / n as f32 + eps).sqrt().recip()))
}

/// The first rows of n numbers each.
#[inline(always)]
fn first_rows<const ROWS: usize>(x: &[f32], n: usize) -> [&[f32]; ROWS] {
    std::array::from_fn(|r| &x[r * n..][..n])
}

/// Norms rows that lie one after the other, each number as `store` has it.
#[inline(always)]
fn norm_rows<T>(x: &[f32], w: &[f32], b: &[f32], eps: f32, (y, store): (&mut [T], impl Fn(f32) -> T + Copy)) {
    let n = w.len();
    let b = &b[..n];
    let row = |y: &mut [T], x: &[f32], (mean, rstd): (f32, f32)| {
        for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(b) {
            *y = store((x - mean) * rstd * w + b);
        }
    };
    let whole = x.len() / (TOGETHER * n) * TOGETHER * n;
    let (x, last_x) = x.split_at(whole);
    let (y, last_y) = y.split_at_mut(whole);
    for (y, x) in y.chunks_exact_mut(TOGETHER * n).zip(x.chunks_exact(TOGETHER * n)) {
        let rows = first_rows::<TOGETHER>(x, n);
        let all = statistics(&rows, n, eps);
        y.chunks_exact_mut(n).zip(rows).zip(all).for_each(|((y, x), of_row)| row(y, x, of_row));
    }
    for (y, x) in last_y.chunks_exact_mut(n).zip(last_x.chunks_exact(n)) {
        row(y, x, statistics(&[x], n, eps)[0]);
    }
}

vectorised! {
    fn layer_norm_rows(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
        norm_rows(x, w, b, eps, (y, |y| y));
    }
}

vectorised! {
    fn layer_norm_rows_bf16(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [bf16]) {
        norm_rows(x, w, b, eps, (y, |y| bf16::from_bits(round::bits(y))));
    }
}

/// Adds what the first rows of x give to dx, dweight and dbias.
#[inline(always)]
fn rows_bwd<const ROWS: usize>(
    (x, w, g): (&[f32], &[f32], &[f32]),
    eps: f32,
    (dx, dw, db): (&mut [f32], &mut [f32], &mut [f32]),
) {
    // One length for all, so that the loops need no bounds checks.
    let n = w.len();
    let (dw, db) = (&mut dw[..n], &mut db[..n]);
    let (x, g) = (first_rows::<ROWS>(x, n), first_rows::<ROWS>(g, n));
    let all = statistics(&x, n, eps);
    let mean_gw = simd::sums::<ROWS>(n, |r, i| g[r][i] * w[i]).map(|sum| sum / n as f32);
    let mean_gwx = simd::sums::<ROWS>(n, |r, i| g[r][i] * w[i] * ((x[r][i] - all[r].0) * all[r].1));
    for (r, dx) in dx.chunks_exact_mut(n).take(ROWS).enumerate() {
        let ((mean, rstd), mean_gw, mean_gwx) = (all[r], mean_gw[r], mean_gwx[r] / n as f32);
        let (x, g) = (x[r], g[r]);
        for i in 0..n {
            let normed = (x[i] - mean) * rstd;
            dw[i] += g[i] * normed;
            db[i] += g[i];
            dx[i] += rstd * (g[i] * w[i] - mean_gw - normed * mean_gwx);
        }
    }
}

vectorised! {
    /// Adds what rows that lie one after the other give to dx, dweight and dbias.
    fn layer_norm_rows_bwd(
        x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32], db: &mut [f32],
    ) {
        let n = w.len();
        let whole = x.len() / (TOGETHER * n) * TOGETHER * n;
        for at in (0..whole).step_by(TOGETHER * n) {
            rows_bwd::<TOGETHER>((&x[at..], w, &g[at..]), eps, (&mut dx[at..], dw, db));
        }
        for at in (whole..x.len()).step_by(n) {
            rows_bwd::<1>((&x[at..], w, &g[at..]), eps, (&mut dx[at..], dw, db));
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
        y.par_chunks_mut(block).zip(xs.par_chunks(block)).for_each(|(y, x)| layer_norm_rows_bf16(x, &w, &b, eps, y));
        return Tensor::from_vec(y, x.dims(), x.device());
    }
    let mut y = overwritten::<f32>(xs.len());
    y.par_chunks_mut(block).zip(xs.par_chunks(block)).for_each(|(y, x)| layer_norm_rows(x, &w, &b, eps, y));
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
            layer_norm_rows_bwd(x, w, g, eps, dx, &mut dw, &mut db);
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
