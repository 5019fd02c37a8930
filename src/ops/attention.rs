//! Scaled dot-product attention.

use candle_core::{Result, Tensor};

/// `softmax(q · kᵀ · scale + mask) · v`. q, k, v: (batch, heads, tokens, head_width); `mask` is added to the scores and
/// broadcasts to (batch, heads, tokens, tokens), −∞ where a token must not look.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: Option<&Tensor>) -> Result<Tensor> {
    let scores = (q * scale)?.contiguous()?.matmul(&k.t()?.contiguous()?)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    super::softmax(&scores)?.matmul(&v.contiguous()?)
}
