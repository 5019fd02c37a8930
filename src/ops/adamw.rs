//! One AdamW update in place, as `torch.optim.AdamW` does it.

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::gradient::Gradient;
use super::simd::vectorised;
use super::spec::{AdamwStep, Factors, corrections};
use super::squares::{SQUARES_BLOCK, SquaredSum, Squares};

/// Updates `param` and both moments in place. All tensors have one shape.
///
/// # Errors
/// Shapes that do not fit.
pub fn adamw_step(param: &Var, grad: &Gradient, m: &Var, v: &Var, step: &AdamwStep) -> Result<()> {
    check(param, grad, m, v)?;
    if !cpu::has_kernels(param) {
        return elsewhere(param, grad, m, v, step);
    }
    on_cpu(param, grad, m, v, step).map(drop)
}

/// [`adamw_step`], which also gives the sum of squares of `grad`, in the same pass where the device can; not finite
/// where one of its numbers is not, and the weight then neither.
///
/// # Errors
/// Shapes that do not fit.
pub fn measured_adamw_step(param: &Var, grad: &Gradient, m: &Var, v: &Var, step: &AdamwStep) -> Result<SquaredSum> {
    check(param, grad, m, v)?;
    if !cpu::has_kernels(param) {
        let squares = grad.begin_squared_sum()?;
        return elsewhere(param, grad, m, v, step).map(|()| squares);
    }
    on_cpu(param, grad, m, v, step).map(SquaredSum::Known)
}

fn check(param: &Var, grad: &Gradient, m: &Var, v: &Var) -> Result<()> {
    if param.shape() != &grad.shape() || param.shape() != m.shape() || param.shape() != v.shape() {
        bail!("adamw: shapes {:?}, {:?}, {:?}, {:?} differ", param.dims(), grad.shape(), m.dims(), v.dims());
    }
    Ok(())
}

fn elsewhere(param: &Var, grad: &Gradient, m: &Var, v: &Var, step: &AdamwStep) -> Result<()> {
    let grad = grad.clone().into_dense()?;
    if cuda::has_kernels(param) {
        return cuda::adamw(param, &grad, m, v, &Factors::new(step));
    }
    composed(param, &grad, m, v, step)
}

/// Returns the sum of squares of the gradient.
fn on_cpu(param: &Var, grad: &Gradient, m: &Var, v: &Var, step: &AdamwStep) -> Result<f64> {
    let factors = Factors::new(step);
    match grad {
        Gradient::Dense(grad) => {
            let grad = grad.contiguous()?;
            let grad = cpu::read(&grad)?;
            let squares = update(param, m, v, SQUARES_BLOCK, |block, p, m, v| {
                adamw_block(p, m, v, &grad[block * SQUARES_BLOCK..][..p.len()], factors)
            })?;
            Ok(squares.iter().sum())
        }
        Gradient::Rows(rows) => {
            update(param, m, v, param.dim(1)?, |row, p, m, v| match rows.row(row) {
                Some(grad) => {
                    adamw_block(p, m, v, grad, factors);
                }
                None => adamw_block_without_grad(p, m, v, factors),
            })?;
            grad.squared_sum()
        }
    }
}

/// Calls `change` with the number of each block and its part of the three tensors; gives what it returned.
fn update<T: Send>(
    param: &Var,
    m: &Var,
    v: &Var,
    block: usize,
    change: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) -> T + Sync,
) -> Result<Vec<T>> {
    cpu::write(param, |p| {
        cpu::write(m, |m| {
            cpu::write(v, |v| {
                let blocks = p.par_chunks_mut(block).zip(m.par_chunks_mut(block)).zip(v.par_chunks_mut(block));
                blocks.enumerate().map(|(i, ((p, m), v))| change(i, p, m, v)).collect()
            })
        })
    })??
}

#[inline(always)]
fn adamw_number(p: &mut f32, m: &mut f32, v: &mut f32, g: f32, f: &Factors) {
    *m = f.decay1 * *m + f.fresh1 * g;
    *v = f.decay2 * *v + f.fresh2 * g * g;
    *p = f.keep * *p - f.rate * *m / (v.sqrt() / f.root_c2 + f.eps);
}

vectorised! {
    /// Returns the sum of squares of `g`.
    fn adamw_block(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], f: Factors) -> f64 {
        // The second reading of a piece comes from the first cache.
        const PIECE: usize = 1024;
        let mut squares = Squares::default();
        let pieces = p.chunks_mut(PIECE).zip(m.chunks_mut(PIECE)).zip(v.chunks_mut(PIECE)).zip(g.chunks(PIECE));
        for (((p, m), v), g) in pieces {
            squares.add(g);
            // One length for all, so that the loop needs no bounds checks.
            let n = p.len();
            let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
            for i in 0..n {
                adamw_number(&mut p[i], &mut m[i], &mut v[i], g[i] * f.grad_scale, &f);
            }
        }
        squares.sum()
    }
}

vectorised! {
    /// [`adamw_block`] for a gradient of 0. Moments that were never anything but 0 stay so, and are not written: most
    /// tokens of a vocabulary never come, and memory that is only read is not even taken from the system.
    fn adamw_block_without_grad(p: &mut [f32], m: &mut [f32], v: &mut [f32], f: Factors) {
        let n = p.len();
        let (m, v) = (&mut m[..n], &mut v[..n]);
        if m.iter().zip(v.iter()).fold(0, |bits, (m, v)| bits | m.to_bits() | v.to_bits()) == 0 {
            p.iter_mut().for_each(|p| *p *= f.keep);
            return;
        }
        for i in 0..n {
            adamw_number(&mut p[i], &mut m[i], &mut v[i], 0.0, &f);
        }
    }
}

fn composed(param: &Var, grad: &Tensor, m: &Var, v: &Var, s: &AdamwStep) -> Result<()> {
    let grad = (grad * s.grad_scale)?;
    m.set(&((m.as_tensor() * s.beta1)? + (&grad * (1.0 - s.beta1))?)?)?;
    v.set(&((v.as_tensor() * s.beta2)? + (grad.sqr()? * (1.0 - s.beta2))?)?)?;
    let (c1, c2) = corrections(s);
    let denominator = ((v.as_tensor().sqrt()? / c2.sqrt())? + s.eps)?;
    let moved = (m.as_tensor() / denominator)?;
    param.set(&((param.as_tensor() * (1.0 - s.lr * s.weight_decay))? - (moved * (s.lr / c1))?)?)
}
