//! One AdamW update in place, as `torch.optim.AdamW` does it.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var, bail};
use rayon::prelude::*;

use super::cpu;

/// Numbers handled by one task.
const BLOCK: usize = 1 << 14;

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

/// Updates `param` and both moments in place. All tensors have one shape.
///
/// # Errors
/// Shapes that do not fit.
pub fn adamw_step(param: &Var, grad: &Tensor, m: &Var, v: &Var, step: &AdamwStep) -> Result<()> {
    let grad = grad.contiguous()?;
    if !cpu::is_cpu_f32(&grad) {
        return composed(param, &grad, m, v, step);
    }
    m.inplace_op2(&grad, &Moment { decay: step.beta1, grad_scale: step.grad_scale, squared: false })?;
    v.inplace_op2(&grad, &Moment { decay: step.beta2, grad_scale: step.grad_scale, squared: true })?;
    param.inplace_op3(m, v, &Update(*step))
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

fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(v), Some((start, end))) => Ok(&mut v[start..end]),
        _ => bail!("adamw: parameters are contiguous f32"),
    }
}

struct Moment {
    decay: f64,
    grad_scale: f64,
    squared: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw-moment"
    }

    fn cpu_fwd(&self, m: &mut CpuStorage, lm: &Layout, g: &CpuStorage, lg: &Layout) -> Result<()> {
        let (m, g) = (slice_mut(m, lm)?, cpu::slice(g, lg)?);
        let (decay, fresh, scale) = (self.decay as f32, (1.0 - self.decay) as f32, self.grad_scale as f32);
        m.par_chunks_mut(BLOCK).zip(g.par_chunks(BLOCK)).for_each(|(m, g)| {
            if self.squared {
                m.iter_mut().zip(g).for_each(|(m, g)| *m = decay * *m + fresh * (g * scale) * (g * scale));
            } else {
                m.iter_mut().zip(g).for_each(|(m, g)| *m = decay * *m + fresh * (g * scale));
            }
        });
        Ok(())
    }
}

struct Update(AdamwStep);

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-update"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        lp: &Layout,
        m: &CpuStorage,
        lm: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<()> {
        let (p, m, v) = (slice_mut(p, lp)?, cpu::slice(m, lm)?, cpu::slice(v, lv)?);
        let (c1, c2) = corrections(&self.0);
        let keep = (1.0 - self.0.lr * self.0.weight_decay) as f32;
        let (rate, root_c2, eps) = ((self.0.lr / c1) as f32, c2.sqrt() as f32, self.0.eps as f32);
        p.par_chunks_mut(BLOCK).zip(m.par_chunks(BLOCK)).zip(v.par_chunks(BLOCK)).for_each(|((p, m), v)| {
            for i in 0..p.len() {
                p[i] = keep * p[i] - rate * m[i] / (v[i].sqrt() / root_c2 + eps);
            }
        });
        Ok(())
    }
}
