//! Fused kernels for NVIDIA's GPUs, as `ops` has them for the CPU. Each takes and gives contiguous f32 tensors; other types
//! and shapes go through the composed twins. kernels.cu is compiled when it is first used, so building needs no more than
//! candle's CUDA feature does.

mod attention;
mod contrastive;
#[cfg(test)]
mod emulator;
mod launch;

use candle_core::{D, DType, Result, Tensor, Var};

use super::activation::Activation;
use super::adamw::Factors;
use super::tape::Value;
use launch::{Arg, THREADS, launch, over};

pub(super) use attention::{attention, fits};
pub(super) use contrastive::contrastive;

/// Whether the kernels can take this tensor.
pub(super) fn has_kernels(x: &Tensor) -> bool {
    cfg!(feature = "cuda") && x.device().is_cuda() && x.dtype() == DType::F32
}

fn zeros(like: &Tensor, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    Tensor::zeros(shape, DType::F32, like.device())
}

/// [`super::layer_norm`].
pub(super) fn layer_norm(x: &Value, weight: &Value, bias: &Value, eps: f64) -> Result<Value> {
    let inputs = [x, weight, bias];
    let (xs, w, b) = (x.tensor().contiguous()?, weight.tensor().contiguous()?, bias.tensor().contiguous()?);
    let width = xs.dim(D::Minus1)?;
    let rows = xs.elem_count() / width;
    let (y, stats) = (zeros(&xs, xs.shape())?, zeros(&xs, (rows, 2))?);
    let args = [&xs, &w, &b, &y, &stats].map(Arg::Tensor);
    launch("layer_norm", (rows, 1, 1), &[&args[..], &[Arg::Int(width), Arg::Float(eps)]].concat())?;
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let grad = grad.contiguous()?;
        if x.wants_grad() {
            let dx = zeros(&xs, xs.shape())?;
            let args = [&xs, &w, &stats, &grad, &dx].map(Arg::Tensor);
            launch("layer_norm_dx", (rows, 1, 1), &[&args[..], &[Arg::Int(width)]].concat())?;
            x.add_grad(dx)?;
        }
        if weight.wants_grad() || bias.wants_grad() {
            // Enough blocks to fill a GPU; each sums its rows in order.
            let slabs = rows.div_ceil(64).clamp(1, 128);
            let (partial, sums) = (zeros(&xs, (slabs, 2, width))?, zeros(&xs, (2, width))?);
            let args = [&xs, &stats, &grad, &partial].map(Arg::Tensor);
            let grid = (width.div_ceil(THREADS), slabs, 1);
            launch("layer_norm_dw", grid, &[&args[..], &[Arg::Int(rows), Arg::Int(width)]].concat())?;
            let args = [Arg::Tensor(&partial), Arg::Tensor(&sums), Arg::Int(slabs), Arg::Int(2 * width)];
            launch("sum_slabs", over(2 * width), &args)?;
            for (value, row) in [(&weight, 0), (&bias, 1)] {
                if value.wants_grad() {
                    value.add_grad(sums.narrow(0, row, 1)?.reshape(width)?.copy()?)?;
                }
            }
        }
        Ok(())
    }))
}

/// [`Activation::apply`].
pub(super) fn activation(x: &Value, kind: Activation) -> Result<Value> {
    let xs = x.tensor().contiguous()?;
    let (count, y) = (xs.elem_count(), zeros(&xs, xs.shape())?);
    let kind = match kind {
        Activation::QuickGelu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::Tanh => 4,
    };
    launch("activation", over(count), &[Arg::Tensor(&xs), Arg::Tensor(&y), Arg::Int(count), Arg::Int(kind)])?;
    let inputs = [x];
    let x = x.clone();
    Ok(Value::record(y, &inputs, move |grad| {
        let (grad, dx) = (grad.contiguous()?, zeros(&xs, xs.shape())?);
        let args = [&xs, &grad, &dx].map(Arg::Tensor);
        launch("activation_dx", over(count), &[&args[..], &[Arg::Int(count), Arg::Int(kind)]].concat())?;
        x.add_grad(dx)
    }))
}

/// [`super::adamw_step`] with a dense gradient.
pub(super) fn adamw(param: &Var, grad: &Tensor, m: &Var, v: &Var, factors: &Factors) -> Result<()> {
    let (count, grad) = (param.elem_count(), grad.contiguous()?);
    let tensors = [param.as_tensor(), m.as_tensor(), v.as_tensor(), &grad].map(Arg::Tensor);
    let factors = factors.in_order().map(|factor| Arg::Float(f64::from(factor)));
    launch("adamw", over(count), &[&tensors[..], &[Arg::Int(count)], &factors[..]].concat())
}

#[cfg(test)]
mod tests;
