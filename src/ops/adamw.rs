//! One AdamW update in place, as `torch.optim.AdamW` does it.

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::gradient::Gradient;
use super::simd::vectorised;
use super::spec::{AdamwStep, Factors, corrections};

/// Updates `param` and both moments in place, in one pass over them. All tensors have one shape.
///
/// # Errors
/// Shapes that do not fit.
pub fn adamw_step(param: &Var, grad: &Gradient, m: &Var, v: &Var, step: &AdamwStep) -> Result<()> {
    if param.shape() != &grad.shape() || param.shape() != m.shape() || param.shape() != v.shape() {
        bail!("adamw: shapes {:?}, {:?}, {:?}, {:?} differ", param.dims(), grad.shape(), m.dims(), v.dims());
    }
    if cuda::has_kernels(param) {
        return cuda::adamw(param, &grad.clone().into_dense()?, m, v, &Factors::new(step));
    }
    if !cpu::has_kernels(param) {
        return composed(param, &grad.clone().into_dense()?, m, v, step);
    }
    let factors = Factors::new(step);
    match grad {
        Gradient::Dense(grad) => {
            let grad = grad.contiguous()?;
            let grad = cpu::read(&grad)?;
            update(param, m, v, cpu::BLOCK, |block, p, m, v| {
                adamw_block(p, m, v, &grad[block * cpu::BLOCK..][..p.len()], factors);
            })
        }
        Gradient::Rows(rows) => {
            let width = param.dim(1)?;
            let zeros = vec![0f32; width];
            update(param, m, v, width, |row, p, m, v| {
                adamw_block(p, m, v, rows.row(row).unwrap_or(&zeros), factors);
            })
        }
    }
}

/// Calls `change` with the number of each block and its part of the three tensors.
fn update(
    param: &Var,
    m: &Var,
    v: &Var,
    block: usize,
    change: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Sync,
) -> Result<()> {
    cpu::write(param, |p| {
        cpu::write(m, |m| {
            cpu::write(v, |v| {
                let blocks = p.par_chunks_mut(block).zip(m.par_chunks_mut(block)).zip(v.par_chunks_mut(block));
                blocks.enumerate().for_each(|(i, ((p, m), v))| change(i, p, m, v));
            })
        })
    })??
}

vectorised! {
    fn adamw_block(p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], f: Factors) {
        // One length for all, so that the loop needs no bounds checks.
        let n = p.len();
        let (m, v, g) = (&mut m[..n], &mut v[..n], &g[..n]);
        for i in 0..n {
            let g = g[i] * f.grad_scale;
            m[i] = f.decay1 * m[i] + f.fresh1 * g;
            v[i] = f.decay2 * v[i] + f.fresh2 * g * g;
            p[i] = f.keep * p[i] - f.rate * m[i] / (v[i].sqrt() / f.root_c2 + f.eps);
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
