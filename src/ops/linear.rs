//! Matrix product with a weight, as one node of the graph: candle's own product computes the gradient of both operands
//! even where nobody asks for one, so a frozen weight would cost as much as a trained one.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;

/// `x · weightᵀ + bias`, as `torch.nn.functional.linear`. x: (…, in), weight: (out, in), bias: (out) → (…, out).
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if !cpu::is_cpu_f32(x) {
        return super::reference::linear(x, weight, Some(bias));
    }
    let rows = as_rows(x)?;
    rows.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Linear)?.reshape(output_shape(x, weight)?)
}

/// `x · weightᵀ`. x: (…, in), weight: (out, in) → (…, out).
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_no_bias(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !cpu::is_cpu_f32(x) {
        return super::reference::linear(x, weight, None);
    }
    let rows = as_rows(x)?;
    rows.apply_op2(&weight.contiguous()?, LinearNoBias)?.reshape(output_shape(x, weight)?)
}

fn as_rows(x: &Tensor) -> Result<Tensor> {
    let inner = x.dim(D::Minus1)?;
    x.contiguous()?.reshape((x.elem_count() / inner.max(1), inner))
}

fn output_shape(x: &Tensor, weight: &Tensor) -> Result<Vec<usize>> {
    let mut shape = x.dims()[..x.rank() - 1].to_vec();
    shape.push(weight.dim(0)?);
    Ok(shape)
}

/// (rows, in) · (out, in)ᵀ
fn product(x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, usize, usize)> {
    let (rows, inner) = lx.shape().dims2()?;
    let (out, w_inner) = lw.shape().dims2()?;
    if inner != w_inner {
        candle_core::bail!("linear: input width {inner}, but the weight is ({out}, {w_inner})");
    }
    Ok((x.matmul(w, (1, rows, out, inner), lx, &lw.transpose(0, 1)?)?, rows, out))
}

/// Gradients for input and weight, each only where somebody asks for it.
fn product_bwd(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
    let dx = if x.track_op() { Some(grad.matmul(&w.detach())?) } else { None };
    let dw = if w.track_op() { Some(grad.t()?.matmul(&x.detach())?) } else { None };
    Ok((dx, dw))
}

struct LinearNoBias;

impl CustomOp2 for LinearNoBias {
    fn name(&self) -> &'static str {
        "linear-no-bias"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, rows, out) = product(x, lx, w, lw)?;
        Ok((y, (rows, out).into()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        product_bwd(x, w, grad)
    }
}

struct Linear;

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (y, rows, out) = product(x, lx, w, lw)?;
        let bias = cpu::slice(b, lb)?;
        if bias.len() != out {
            candle_core::bail!("linear: bias has {} numbers, the weight {out} rows", bias.len());
        }
        let CpuStorage::F32(mut y) = y else { candle_core::bail!("linear: a product of f32 is not f32") };
        y.par_chunks_mut(out * cpu::ROWS_PER_TASK).for_each(|block| {
            for row in block.chunks_exact_mut(out) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        });
        Ok((CpuStorage::F32(y), (rows, out).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = product_bwd(x, w, grad)?;
        let db = if b.track_op() { Some(column_sum(grad)?) } else { None };
        Ok((dx, dw, db))
    }
}

/// Sum over rows: (rows, width) → (width), in blocks whose size does not depend on the number of threads. candle's own
/// sum over a leading dimension is 60 times slower.
fn column_sum(x: &Tensor) -> Result<Tensor> {
    const ROWS_PER_PARTIAL: usize = 128;
    let width = x.dim(1)?;
    let sums = cpu::with_slice(x, |x| {
        let partials: Vec<Vec<f32>> =
            x.par_chunks(width * ROWS_PER_PARTIAL).map(|block| sum_of(block.chunks_exact(width), width)).collect();
        sum_of(partials.iter().map(Vec::as_slice), width)
    })?;
    Tensor::from_vec(sums, width, x.device())
}

fn sum_of<'a>(rows: impl Iterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let mut sums = vec![0f32; width];
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(s, x)| *s += x);
    }
    sums
}
