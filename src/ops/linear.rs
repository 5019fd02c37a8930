//! Matrix product with a weight, as in `torch.nn.functional.linear`.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use super::activation;
use super::alloc::overwritten;
use super::cpu;
use super::cuda;
use super::gemm::{Into, Layout, Matrix, Threads, product};
use super::gradient::Gradient;
use super::linear_bf16::{Layer, Weights};
use super::profile::{self, Part};
use super::spec::Activation;
use super::sum::column_sum;
use super::tape::{GradOf, Value, in_bf16};

/// `x · weightᵀ + bias`. x: (rows, in), weight: (out, in), bias: (out) → (rows, out).
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Value, weight: &Value, bias: &Value) -> Result<Value> {
    affine(x, weight, Some(bias), None)
}

/// `x · weightᵀ`. x: (rows, in), weight: (out, in) → (rows, out).
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_no_bias(x: &Value, weight: &Value) -> Result<Value> {
    affine(x, weight, None, None)
}

/// `residual + x · weightᵀ + bias`, the end of a block's branch. residual: (rows, out), the others as in [`linear`].
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_residual(x: &Value, weight: &Value, bias: &Value, residual: &Value) -> Result<Value> {
    affine(x, weight, Some(bias), Some(residual))
}

/// [`linear`], with or without a bias, for an output that only products, attention or an activation before a product
/// read: where products are in bf16, it is rounded to that, and on the CPU kept so.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_operand(x: &Value, weight: &Value, bias: Option<&Value>) -> Result<Value> {
    let inputs: Vec<&Value> = [Some(x), Some(weight), bias].into_iter().flatten().collect();
    let _timed = profile::enter(Part::Linear);
    if cpu::has_kernels(weight.tensor()) && in_bf16(&inputs) {
        return layer(x, weight, bias, None)?.apply(true);
    }
    affine(x, weight, bias, None)?.as_operand()
}

fn affine(x: &Value, weight: &Value, bias: Option<&Value>, residual: Option<&Value>) -> Result<Value> {
    let _timed = profile::enter(Part::Linear);
    let inputs: Vec<&Value> = [Some(x), Some(weight), bias, residual].into_iter().flatten().collect();
    if !cpu::has_kernels(weight.tensor()) {
        let products = if in_bf16(&inputs) { DType::BF16 } else { x.tensor().dtype() };
        return affine_of_candle(x, weight, (bias, residual), products);
    }
    if in_bf16(&inputs) {
        return layer(x, weight, bias, residual)?.apply(false);
    }
    let y = forward(x.tensor(), weight.tensor(), bias.map(Value::tensor), residual.map(Value::tensor))?;
    let (x, weight, bias, residual) = (x.clone(), weight.clone(), bias.cloned(), residual.map(Value::grad));
    Ok(Value::record(y, &inputs, move |grad| {
        if let Some(bias) = &bias {
            add_bias_grad(bias, &grad)?;
        }
        add_weight_grad(&weight, &grad, x.tensor())?;
        add_input_grad(&x, &grad, weight.tensor())?;
        residual.map_or(Ok(()), |residual| residual.add(grad))
    }))
}

/// What goes into a product in bf16 on the CPU.
fn layer(x: &Value, weight: &Value, bias: Option<&Value>, residual: Option<&Value>) -> Result<Layer> {
    check(x.tensor().dims2()?, weight.tensor(), bias.map(Value::tensor), residual.map(Value::tensor))?;
    Ok(Layer { x: x.clone(), with: weights(weight, bias, residual)? })
}

fn weights(weight: &Value, bias: Option<&Value>, residual: Option<&Value>) -> Result<Weights> {
    let residual = residual.map(Value::widened).transpose()?;
    Ok(Weights { weight: weight.clone(), bias: bias.cloned(), residual })
}

/// [`affine`] by candle's products, on any device: on GPUs with numbers of type `products`, elsewhere with numbers
/// rounded to it.
fn affine_of_candle(
    x: &Value,
    weight: &Value,
    (bias, residual): (Option<&Value>, Option<&Value>),
    products: DType,
) -> Result<Value> {
    let inputs: Vec<&Value> = [Some(x), Some(weight), bias, residual].into_iter().flatten().collect();
    // What products alone read is kept in bf16 on a GPU, too; what they make is f32.
    let own = if x.tensor().dtype() == DType::BF16 { DType::F32 } else { x.tensor().dtype() };
    let rounds = products == DType::BF16 && x.tensor().device().is_cpu();
    let operand = move |t: &Tensor| if rounds { cpu::rounded(t) } else { t.to_dtype(products) };
    let (xs, ws) = (operand(x.tensor())?, operand(weight.tensor())?);
    let y = around_product(xs.matmul(&ws.t()?)?, own, bias.map(Value::tensor), residual.map(Value::tensor))?;
    // Not the input itself: where products are in bf16, `xs` is half as large, and all that is needed of it.
    let of_weight = weight.tensor().dtype();
    let (x, weight, bias, residual) = (x.grad(), weight.grad(), bias.map(Value::grad), residual.map(Value::grad));
    Ok(Value::record(y, &inputs, move |grad| {
        let factor = operand(&grad)?;
        if let Some(bias) = bias.filter(GradOf::is_wanted) {
            bias.add(if cuda::has_kernels(&grad) { cuda::column_sums(&grad)? } else { grad.sum(0)? })?;
        }
        if weight.is_wanted() {
            weight.add(factor.t()?.matmul(&xs)?.to_dtype(of_weight)?)?;
        }
        if x.is_wanted() {
            x.add(factor.matmul(&ws)?.to_dtype(own)?)?;
        }
        residual.map_or(Ok(()), |residual| residual.add(grad))
    }))
}

/// The product in type `own`, plus bias and residual: on a GPU in one pass over it.
fn around_product(product: Tensor, own: DType, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
    if product.device().is_cuda() && own == DType::F32 {
        let done = product.dtype() == DType::F32 && bias.is_none() && residual.is_none();
        return if done { Ok(product) } else { cuda::finish(&product, bias, residual) };
    }
    let mut y = product.to_dtype(own)?;
    if let Some(bias) = bias {
        y = y.broadcast_add(bias)?;
    }
    if let Some(residual) = residual {
        y = (y + residual)?;
    }
    Ok(y)
}

/// `residual + activation(x) · weightᵀ + bias`, the second half of a feed-forward layer. Keeps `x` alone: what the
/// activation makes of it is worked out again in the backward pass, where its derivative is needed anyway.
///
/// # Errors
/// Shapes that do not fit.
pub fn activated_linear_residual(
    x: &Value,
    kind: Activation,
    weight: &Value,
    bias: &Value,
    residual: &Value,
) -> Result<Value> {
    let in_bf16 = in_bf16(&[x, weight, bias, residual]);
    if !cpu::has_kernels(weight.tensor()) {
        let (x, numbers) = if in_bf16 { (x.with_rounded_gradient(), DType::BF16) } else { (x.clone(), DType::F32) };
        return linear_residual(&kind.applied(&x, numbers)?, weight, bias, residual);
    }
    let _timed = profile::enter(Part::Linear);
    if in_bf16 {
        return layer(x, weight, Some(bias), Some(residual))?.apply_activated(kind);
    }
    let active = activation::forward(x.tensor(), kind)?;
    let y = forward(&active, weight.tensor(), Some(bias.tensor()), Some(residual.tensor()))?;
    let inputs = [x, weight, bias, residual];
    let (x, weight, bias, residual) = (x.clone(), weight.clone(), bias.clone(), residual.grad());
    Ok(Value::record(y, &inputs, move |grad| {
        add_bias_grad(&bias, &grad)?;
        if weight.wants_grad() {
            add_weight_grad(&weight, &grad, &activation::forward(x.tensor(), kind)?)?;
        }
        if x.wants_grad() {
            let d_active = matmul(&grad, weight.tensor())?;
            x.add_grad(activation::backward(x.tensor(), d_active, kind)?)?;
        }
        residual.add(grad)
    }))
}

/// `residual + activation(x · weightᵀ + bias) · weightᵀ + bias`, with weight and bias of `first`, then of `second`: a
/// feed-forward layer. What goes into the activation is kept where a gradient goes back through it.
///
/// # Errors
/// Shapes that do not fit.
pub fn feed_forward(
    x: &Value,
    (weight, bias): (&Value, Option<&Value>),
    kind: Activation,
    second: (&Value, &Value),
    residual: &Value,
) -> Result<Value> {
    let inputs = [Some(x), Some(weight), bias, Some(second.0), Some(second.1), Some(residual)];
    let inputs: Vec<&Value> = inputs.into_iter().flatten().collect();
    if cpu::has_kernels(weight.tensor()) && in_bf16(&inputs) && !inputs.iter().any(|v| v.wants_grad()) {
        let _timed = profile::enter(Part::Linear);
        let hidden = (x.tensor().dim(0)?, weight.tensor().dim(0)?);
        check(hidden, second.0.tensor(), Some(second.1.tensor()), Some(residual.tensor()))?;
        let second = weights(second.0, Some(second.1), Some(residual))?;
        return layer(x, weight, bias, None)?.feed_forward(kind, &second);
    }
    activated_linear_residual(&linear_operand(x, weight, bias)?, kind, second.0, second.1, residual)
}

/// (rows, columns) of a matrix.
fn plain(x: &Tensor) -> Result<Layout> {
    let (rows, columns) = x.dims2()?;
    Ok(Layout::plain(rows, columns))
}

/// Fails where shapes do not fit to an operand of (rows, inner).
fn check(
    (rows, inner): (usize, usize),
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<()> {
    let (out, w_inner) = weight.dims2()?;
    if inner != w_inner {
        bail!("linear: input width {inner}, but the weight is ({out}, {w_inner})");
    }
    if let Some(bias) = bias
        && bias.elem_count() != out
    {
        bail!("linear: bias has {} numbers, the weight {out} rows", bias.elem_count());
    }
    if let Some(residual) = residual
        && residual.dims() != [rows, out]
    {
        bail!("linear: the residual is {:?}, the output ({rows}, {out})", residual.dims());
    }
    Ok(())
}

fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
    check(x.dims2()?, weight, bias, residual)?;
    let (rows, out) = (x.dim(0)?, weight.dim(0)?);
    let bias = bias.map(cpu::read).transpose()?;
    let residual = residual.map(cpu::read).transpose()?;
    let (mut y, into) = addends(rows, out, bias.as_deref(), residual.as_deref());
    let (xs, ws) = (cpu::read(x)?, cpu::read(weight)?);
    let w = plain(weight)?.of(&ws).transposed();
    product((&mut y, Layout::plain(rows, out), into), 1.0, plain(x)?.of(&xs), w, Threads::All);
    Tensor::from_vec(y, (rows, out), x.device())
}

/// What a product is added to, (rows, out): the residual, with the bias on each row; or room for the product alone.
pub(super) fn addends(rows: usize, out: usize, bias: Option<&[f32]>, residual: Option<&[f32]>) -> (Vec<f32>, Into) {
    let mut y = overwritten(rows * out);
    let mut each_row = |fill: &(dyn Fn(&mut [f32], usize) + Sync)| {
        y.par_chunks_mut(out * cpu::ROWS_PER_TASK).enumerate().for_each(|(i, block)| {
            let starts = (i * cpu::ROWS_PER_TASK * out..).step_by(out);
            block.chunks_exact_mut(out).zip(starts).for_each(|(row, start)| fill(row, start));
        });
    };
    match (residual, bias) {
        (None, None) => return (y, Into::Over),
        (None, Some(bias)) => each_row(&|row, _| row.copy_from_slice(bias)),
        (Some(residual), None) => each_row(&|row, start| row.copy_from_slice(&residual[start..start + out])),
        (Some(residual), Some(bias)) => each_row(&|row, start| {
            row.iter_mut().zip(&residual[start..start + out]).zip(bias).for_each(|((y, r), b)| *y = r + b);
        }),
    }
    (y, Into::Onto)
}

/// a · b
fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (la, lb) = (plain(a)?, plain(b)?);
    let (an, bn) = (cpu::read(a)?, cpu::read(b)?);
    let mut y = overwritten(la.rows * lb.columns);
    product((&mut y, Layout::plain(la.rows, lb.columns), Into::Over), 1.0, la.of(&an), lb.of(&bn), Threads::All);
    Tensor::from_vec(y, (la.rows, lb.columns), a.device())
}

/// Adds `a · b` to the gradient of `value`: straight into it where there is one.
fn add_product(value: &Value, a: Matrix, b: Matrix) -> Result<()> {
    let layout = Layout::plain(a.layout.rows, b.layout.columns);
    value.update_grad(|before| match before {
        Some(before) => {
            let sum = cpu::widened(before.into_dense()?)?;
            cpu::write(&sum, |sum| product((sum, layout, Into::Onto), 1.0, a, b, Threads::All))?;
            Ok(Gradient::Dense(sum))
        }
        None => {
            let mut fresh = overwritten(layout.rows * layout.columns);
            product((&mut fresh, layout, Into::Over), 1.0, a, b, Threads::All);
            Tensor::from_vec(fresh, (layout.rows, layout.columns), value.tensor().device()).map(Gradient::Dense)
        }
    })
}

fn add_input_grad(x: &Value, grad: &Tensor, weight: &Tensor) -> Result<()> {
    if !x.wants_grad() {
        return Ok(());
    }
    add_product(x, plain(grad)?.of(&cpu::read(grad)?), plain(weight)?.of(&cpu::read(weight)?))
}

fn add_weight_grad(weight: &Value, grad: &Tensor, x: &Tensor) -> Result<()> {
    if !weight.wants_grad() {
        return Ok(());
    }
    add_product(weight, plain(grad)?.of(&cpu::read(grad)?).transposed(), plain(x)?.of(&cpu::read(x)?))
}

fn add_bias_grad(bias: &Value, grad: &Tensor) -> Result<()> {
    if !bias.wants_grad() {
        return Ok(());
    }
    let width = grad.dim(1)?;
    let sums = column_sum(&cpu::read(grad)?, width);
    bias.add_grad(Tensor::from_vec(sums, width, grad.device())?)
}
