//! An EfficientNet as a graph.

use anyhow::Result;

use super::config::{EfficientNetConfig, Margin, MbConvConfig};
use crate::model::graph::{Conv, Drawing, Edge};
use crate::model::layers::drawn;
use crate::ops::Activation;

pub fn draw(c: &EfficientNetConfig, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
    let e = d.enter("embeddings");
    let before = Margin::BySide.before(3, c.image_size) * usize::from(c.any_size);
    let stem = Conv { pads: [before, before, 1, 1], ..Conv::even(2, 0) };
    let x = drawn::conv_norm(&e, ("convolution", "batchnorm"), pixel_values, c.batch_norm_eps, stem)?;
    let mut x = d.activation(c.activation, &x)?;
    let encoder = d.enter("encoder");
    // The stem's output, a kernel of 3 by twos.
    let mut side = (c.image_size + before + 1 - 3) / 2 + 1;
    for (i, shape) in c.blocks.iter().enumerate() {
        (x, side) = block(&encoder.enter(&format!("blocks.{i}")), (c, shape), &x, side)?;
    }
    let x = drawn::conv_norm(&encoder, ("top_conv", "top_bn"), &x, c.batch_norm_eps, Conv::even(1, 0))?;
    Ok(d.mean(&d.activation(c.activation, &x)?, &[2, 3], false))
}

/// x: (batch, inner, side, side) → (batch, outer, …) and the new side.
fn block(
    d: &Drawing,
    (tower, c): (&EfficientNetConfig, &MbConvConfig),
    x: &Edge,
    side: usize,
) -> Result<(Edge, usize)> {
    let (eps, pointwise) = (tower.batch_norm_eps, Conv::even(1, 0));
    let mut y = x.clone();
    if c.expanded != c.inner {
        y = drawn::conv_norm(&d.enter("expansion"), ("expand_conv", "expand_bn"), x, eps, pointwise)?;
        y = d.activation(tower.activation, &y)?;
    }
    let (before, behind, to) = margins(c, side);
    let depthwise = Conv { stride: c.stride, pads: [before, before, behind, behind], groups: c.expanded };
    y = drawn::conv_norm(&d.enter("depthwise_conv"), ("depthwise_conv", "depthwise_norm"), &y, eps, depthwise)?;
    y = d.activation(tower.activation, &y)?;
    if c.squeezed.is_some() {
        let d = d.enter("squeeze_excite");
        let squeezed = d.conv_layer("reduce", &d.mean(&y, &[2, 3], true), pointwise)?;
        let gate = d.conv_layer("expand", &d.activation(tower.activation, &squeezed)?, pointwise)?;
        y = d.mul(&y, &d.activation(Activation::Sigmoid, &gate)?);
    }
    y = drawn::conv_norm(&d.enter("projection"), ("project_conv", "project_bn"), &y, eps, pointwise)?;
    Ok((if c.residual { d.add(&y, x) } else { y }, to))
}

/// Zeros before the first and behind the last of `side` pixels, and how many pixels come out.
fn margins(c: &MbConvConfig, side: usize) -> (usize, usize, usize) {
    if c.stride == 1 {
        return (c.kernel / 2, c.kernel / 2, side);
    }
    let before = c.margin.before(c.kernel, side);
    let to = (side - (c.kernel / 2 - before)).div_ceil(c.stride);
    (before, (c.stride * (to - 1) + c.kernel).saturating_sub(side + before), to)
}
