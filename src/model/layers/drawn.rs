//! The layers of this folder as graphs.

use anyhow::Result;
use candle_core::Tensor;

use super::attention_pool::AttentionPoolConfig;
use super::projection::Projection;
use super::transformer::{RelativePositions, StackConfig};
use crate::model::graph::{Conv, Drawing, Edge, Heads};
use crate::ops::Activation;

/// A stack of blocks; `added` goes to the scores of each. x: (batch, rows, width) → the same.
pub fn stack(d: &Drawing, c: &StackConfig, x: Edge, added: Option<&Edge>) -> Result<Edge> {
    (0..c.layers).try_fold(x, |x, i| block(&d.enter(&format!("encoder.layers.{i}")), c, &x, added))
}

fn block(d: &Drawing, c: &StackConfig, x: &Edge, added: Option<&Edge>) -> Result<Edge> {
    let (attention, mlp) = (d.enter("self_attn"), d.enter("mlp"));
    let heads = Heads { heads: c.heads, width: c.width, lead: 1 };
    let normed = if c.post_norm { x.clone() } else { d.layer_norm("layer_norm1", x, c.layer_norm_eps)? };
    let split = |name: &str| d.split_heads(&attention.linear(name, &normed)?, heads);
    let relative = c.relative.as_ref().map(|relative| relative_scores(&attention, relative)).transpose()?;
    let added = relative.as_ref().or(added);
    let mixed = d.attention([&split("q_proj")?, &split("k_proj")?, &split("v_proj")?], heads, added)?;
    let x = d.add(x, &layer_scaled(d, c, "layer_scale1", attention.linear("out_proj", &mixed)?)?);
    let feed_forward = |x: &Edge| -> Result<Edge> {
        let hidden = d.activation(c.activation, &mlp.linear("fc1", x)?)?;
        layer_scaled(d, c, "layer_scale2", mlp.linear("fc2", &hidden)?)
    };
    if c.post_norm {
        let x = d.layer_norm("layer_norm1", &x, c.layer_norm_eps)?;
        return d.layer_norm("layer_norm2", &d.add(&x, &feed_forward(&x)?), c.layer_norm_eps);
    }
    Ok(d.add(&x, &feed_forward(&d.layer_norm("layer_norm2", &x, c.layer_norm_eps)?)?))
}

fn layer_scaled(d: &Drawing, c: &StackConfig, name: &str, x: Edge) -> Result<Edge> {
    if c.layer_scale { Ok(d.mul(&x, &d.enter(name).weight("lambda")?)) } else { Ok(x) }
}

/// The learnt scores of each pair of rows: (1, heads, rows, rows).
fn relative_scores(d: &Drawing, relative: &RelativePositions) -> Result<Edge> {
    let rows = relative.index.len().isqrt();
    Ok(d.constant("relative_position_bias", scores_of(d, &relative.index)?.reshape((1, (), rows, rows))?))
}

/// Entries of the table of scores by relative position, in the order of `index`: (heads, entries).
pub fn scores_of(d: &Drawing, index: &[u32]) -> Result<Tensor> {
    let table = d.tensor("relative_position_bias.table")?;
    let index = Tensor::new(index, table.device())?;
    Ok(table.index_select(&index, 0)?.t()?.contiguous()?)
}

/// SigLIP's head. x: (batch, rows, width) → (batch, width).
pub fn attention_pool(d: &Drawing, c: &AttentionPoolConfig, x: &Edge) -> Result<Edge> {
    let (attention, mlp) = (d.enter("attention"), d.enter("mlp"));
    let heads = Heads { heads: c.heads, width: c.width, lead: 1 };
    let split = |name: &str, x: &Edge| d.split_heads(&attention.linear(name, x)?, heads);
    let probe = d.constant("probe", d.tensor("probe")?.reshape((1, 1, c.width))?);
    let gathered = d.attention([&split("q_proj", &probe)?, &split("k_proj", x)?, &split("v_proj", x)?], heads, None)?;
    let gathered = d.reshape(&attention.linear("out_proj", &gathered)?, &[0, c.width as i64])?;
    let hidden = mlp.linear("fc1", &d.layer_norm("layernorm", &gathered, c.layer_norm_eps)?)?;
    Ok(d.add(&gathered, &mlp.linear("fc2", &d.activation(c.activation, &hidden)?)?))
}

/// A projection. x: (batch, width) → (batch, embed_dim).
pub fn projection(d: &Drawing, name: &str, kind: Projection, x: Edge) -> Result<Edge> {
    match kind {
        Projection::None => Ok(x),
        Projection::Linear { .. } => d.linear(name, &x),
        Projection::Mlp { .. } => {
            let hidden = d.linear(&format!("{name}.0"), &x)?;
            d.linear(&format!("{name}.2"), &d.activation(Activation::Gelu, &hidden)?)
        }
    }
}

/// A batch norm taken into the convolution before it, as [`super::conv_norm::BatchNorm`] does: kernel and bias.
pub fn with_norm(norm: &Drawing, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let rstd = (norm.tensor("running_var")? + eps)?.sqrt()?.recip()?;
    let scale = (norm.tensor("weight")? * rstd)?;
    let shift = (norm.tensor("bias")? - (&scale * norm.tensor("running_mean")?)?)?;
    Ok((weight.broadcast_mul(&scale.reshape(((), 1, 1, 1))?)?, shift))
}

/// The convolution `conv` and the batch norm `norm`. x: (batch, in, height, width).
pub fn conv_norm(d: &Drawing, names: (&str, &str), x: &Edge, eps: f64, c: Conv) -> Result<Edge> {
    let conv = d.enter(names.0);
    let (weight, bias) = with_norm(&d.enter(names.1), &conv.tensor("weight")?, eps)?;
    conv.conv(x, weight, Some(bias), c)
}
