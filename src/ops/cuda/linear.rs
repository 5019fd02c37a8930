//! What stands around products with weights, and sums over rows.

use candle_core::{DType, Result, Tensor};

use super::fresh;
use super::launch::{Arg, THREADS, launch, over};

/// `product + bias + residual` in f32. product: (rows, width), f32 or bf16; bias: (width); residual: (rows, width).
pub(in crate::ops) fn finish(product: &Tensor, bias: Option<&Tensor>, residual: Option<&Tensor>) -> Result<Tensor> {
    let (rows, width) = product.dims2()?;
    let product = product.contiguous()?;
    let out = fresh(&product, (rows, width))?;
    let contiguous = |x: Option<&Tensor>| x.map(Tensor::contiguous).transpose();
    let (bias, residual) = (contiguous(bias)?, contiguous(residual)?);
    // What is not there is not looked at.
    let args = [&product, bias.as_ref().unwrap_or(&out), residual.as_ref().unwrap_or(&out), &out].map(Arg::Tensor);
    let told = [width, usize::from(bias.is_some()), usize::from(residual.is_some())].map(Arg::Int);
    let kernel = if product.dtype() == DType::BF16 { "finish_bf16" } else { "finish_f32" };
    launch(kernel, (rows, 1, 1), &[&args[..], &told].concat())?;
    Ok(out)
}

/// Sum over rows: (rows, width) → (width).
pub(in crate::ops) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let x = x.contiguous()?;
    // Enough blocks to fill a GPU; each sums its rows in order.
    let slabs = rows.div_ceil(64).clamp(1, 128);
    let (partial, sums) = (fresh(&x, (slabs, width))?, fresh(&x, width)?);
    let args = [Arg::Tensor(&x), Arg::Tensor(&partial), Arg::Int(rows), Arg::Int(width)];
    launch("column_sums", (width.div_ceil(THREADS), slabs, 1), &args)?;
    let args = [Arg::Tensor(&partial), Arg::Tensor(&sums), Arg::Int(slabs), Arg::Count(width)];
    launch("sum_slabs", over(width), &args)?;
    Ok(sums)
}

/// Σ x², as two f32 that add up to it in f64; where it is not finite, the first is not.
pub(in crate::ops) fn squares(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let count = x.elem_count();
    // A few hundred fill a GPU; fewer numbers, fewer blocks.
    let blocks = count.div_ceil(16 * THREADS).clamp(1, 512);
    let (partial, sum) = (fresh(&x, (blocks, 2))?, fresh(&x, 2)?);
    launch("squares", (blocks, 1, 1), &[Arg::Tensor(&x), Arg::Tensor(&partial), Arg::Count(count)])?;
    launch("squares_end", (1, 1, 1), &[Arg::Tensor(&partial), Arg::Tensor(&sum), Arg::Int(blocks)])?;
    Ok(sum)
}
