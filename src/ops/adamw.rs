//! One AdamW update in place, as `torch.optim.AdamW` does it.

use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::gradient::Gradient;
use super::simd::vectorised;

/// The numbers of one update of one parameter.
#[derive(Clone, Copy, Debug)]
pub struct AdamwStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; 0 for parameters that have none.
    pub weight_decay: f64,
    /// Number of this update, from 1: for bias correction.
    pub t: i32,
    /// The gradient is multiplied by this first (norm clipping).
    pub grad_scale: f64,
}

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

/// What the numbers of an update come to in f32.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    grad_scale: f32,
    decay1: f32,
    decay2: f32,
    fresh1: f32,
    fresh2: f32,
    keep: f32,
    rate: f32,
    root_c2: f32,
    eps: f32,
}

impl Factors {
    /// As the kernel for GPUs takes them.
    pub(super) fn in_order(&self) -> [f32; 9] {
        let f = self;
        [f.grad_scale, f.decay1, f.decay2, f.fresh1, f.fresh2, f.keep, f.rate, f.root_c2, f.eps]
    }

    pub(super) fn new(s: &AdamwStep) -> Self {
        let (c1, c2) = corrections(s);
        Self {
            grad_scale: s.grad_scale as f32,
            decay1: s.beta1 as f32,
            decay2: s.beta2 as f32,
            fresh1: (1.0 - s.beta1) as f32,
            fresh2: (1.0 - s.beta2) as f32,
            keep: (1.0 - s.lr * s.weight_decay) as f32,
            rate: (s.lr / c1) as f32,
            root_c2: c2.sqrt() as f32,
            eps: s.eps as f32,
        }
    }
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

fn corrections(s: &AdamwStep) -> (f64, f64) {
    (1.0 - s.beta1.powi(s.t), 1.0 - s.beta2.powi(s.t))
}
