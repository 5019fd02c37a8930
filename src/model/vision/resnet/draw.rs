//! A ResNet as a graph.

use anyhow::{Context, Result};

use super::config::{ResNetConfig, ResNetPool};
use super::layers::{BATCH_NORM_EPS, BlockShape};
use crate::model::graph::{Attribute, Conv, Drawing, Edge, Heads};
use crate::model::layers::drawn;
use crate::ops::Activation;

pub fn draw(c: &ResNetConfig, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
    let e = d.enter("embedder");
    let mut x = pixel_values.clone();
    let stem: &[(&str, usize, usize)] =
        if c.clip { &[("0", 3, 2), ("1", 3, 1), ("2", 3, 1)] } else { &[("embedder", 7, 2)] };
    for &(name, kernel, stride) in stem {
        x = d.activation(Activation::Relu, &conv(&e.enter(name), &x, kernel, stride)?)?;
    }
    x = if c.clip {
        d.pool("AveragePool", &x, 2, Conv::even(2, 0))
    } else {
        d.pool("MaxPool", &x, 3, Conv::even(2, 1))
    };
    for (name, shape) in BlockShape::all(c) {
        x = block(&d.enter(&name), &shape, &x)?;
    }
    match c.pool {
        ResNetPool::Mean => Ok(d.mean(&x, &[2, 3], false)),
        ResNetPool::Attention { heads } => {
            let heads = Heads { heads, width: c.width(), lead: 1 };
            attention_pool(&d.enter("attention_pool"), heads, &d.pixels_as_rows(&x)?)
        }
    }
}

fn conv(d: &Drawing, x: &Edge, kernel: usize, stride: usize) -> Result<Edge> {
    drawn::conv_norm(d, ("convolution", "normalization"), x, BATCH_NORM_EPS, Conv::even(stride, kernel / 2))
}

fn block(d: &Drawing, shape: &BlockShape, x: &Edge) -> Result<Edge> {
    let smaller = |x: &Edge| match shape.average {
        1 => x.clone(),
        n => d.pool("AveragePool", x, n, Conv::even(n, 0)),
    };
    let residual = match shape.shortcut {
        Some(stride) => conv(&d.enter("shortcut"), &smaller(x), 1, stride)?,
        None => x.clone(),
    };
    let (last, earlier) = shape.convs.split_last().context("a layer without convolutions")?;
    let mut x = x.clone();
    for (i, &(kernel, stride)) in earlier.iter().enumerate() {
        x = d.activation(Activation::Relu, &conv(&d.enter(&format!("layer.{i}")), &x, kernel, stride)?)?;
    }
    let x = conv(&d.enter(&format!("layer.{}", earlier.len())), &smaller(&x), last.0, last.1)?;
    d.activation(Activation::Relu, &d.add(&x, &residual))
}

/// The mean asks, the mean and the pixels answer. x: (batch, pixels, width) → (batch, width).
fn attention_pool(d: &Drawing, heads: Heads, x: &Edge) -> Result<Edge> {
    let positions = d.weight("position_embedding.weight")?;
    let rows = d.op_with("Concat", &[&d.mean(x, &[1], true), x], &[("axis", Attribute::Int(1))]);
    let rows = d.add(&rows, &positions);
    let mean = d.slice(&rows, 1, &d.ints(&[0])?, &d.ints(&[1])?)?;
    let split = |name: &str, x: &Edge| d.split_heads(&d.linear(name, x)?, heads);
    let mixed =
        d.attention([&split("q_proj", &mean)?, &split("k_proj", &rows)?, &split("v_proj", &rows)?], heads, None)?;
    d.reshape(&mixed, &[0, heads.width as i64])
}
