//! The plain twins of the fused kernels, composed from candle operations whose gradients are right. They run on every
//! device and in every float type; the kernels are tested against them.

use candle_core::{D, Result, Tensor};

/// `x · weightᵀ + bias`. x: (…, in), weight: (out, in), bias: (out).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, inner) = (x.elem_count() / x.dim(D::Minus1)?, x.dim(D::Minus1)?);
    let y = x.reshape((rows, inner))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let mut shape = x.dims().to_vec();
    *shape.last_mut().expect("x has at least one dimension") = weight.dim(0)?;
    y.reshape(shape)
}

/// Layer normalisation over the last dimension, variance without Bessel's correction. x: (…, width).
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax(x, D::Minus1)
}

/// OpenAI's `x · sigmoid(1.702 x)`.
pub fn quick_gelu(x: &Tensor) -> Result<Tensor> {
    x * candle_nn::ops::sigmoid(&(x * 1.702)?)?
}

/// Attention as [`super::attention`] describes it.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (batch, tokens, width) = q.dims3()?;
    let head_width = width / heads;
    // (batch, tokens, width) → (batch, heads, tokens, head_width)
    let split = |x: &Tensor| x.reshape((batch, tokens, heads, head_width))?.transpose(1, 2)?.contiguous();
    let scores = (split(q)?.matmul(&split(k)?.t()?)? * (head_width as f64).powf(-0.5))?;
    let scores = if causal { scores.broadcast_add(&causal_mask(tokens, &scores)?)? } else { scores };
    softmax(&scores)?.matmul(&split(v)?)?.transpose(1, 2)?.reshape((batch, tokens, width))
}

/// (tokens, tokens): 0 where a token may look, −∞ ahead of it; device and type of `like`.
fn causal_mask(tokens: usize, like: &Tensor) -> Result<Tensor> {
    let ahead = |row: usize, column: usize| if column > row { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..tokens * tokens).map(|i| ahead(i / tokens, i % tokens)).collect();
    Tensor::from_vec(mask, (tokens, tokens), like.device())?.to_dtype(like.dtype())
}
