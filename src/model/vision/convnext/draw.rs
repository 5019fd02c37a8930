//! A ConvNeXt as a graph.

use anyhow::Result;

use super::config::ConvNextConfig;
use super::layers::EPS;
use crate::model::graph::{Conv, Drawing, Edge};
use crate::ops::reference::RESPONSE_EPS;

/// (batch, channels, height, width) and (batch, height, width, channels).
const CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];
const CHANNELS_FIRST: [i64; 4] = [0, 3, 1, 2];

pub fn draw(c: &ConvNextConfig, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
    let e = d.enter("embeddings");
    let patches = e.conv_layer("patch_embeddings", pixel_values, Conv::even(c.patch_size, 0))?;
    let mut x = e.layer_norm("layernorm", &d.transpose(&patches, &CHANNELS_LAST), EPS)?;
    for (s, &depth) in c.depths.iter().enumerate() {
        let d = d.enter(&format!("encoder.stages.{s}"));
        if s > 0 {
            let normed = d.layer_norm("downsampling_layer.0", &x, EPS)?;
            let normed = d.transpose(&normed, &CHANNELS_FIRST);
            x = d.transpose(&d.conv_layer("downsampling_layer.1", &normed, Conv::even(2, 0))?, &CHANNELS_LAST);
        }
        for l in 0..depth {
            x = block(c, c.hidden[s], &d.enter(&format!("layers.{l}")), &x)?;
        }
    }
    let mean = d.mean(&x, &[1, 2], false);
    if c.pooler_norm { d.layer_norm("layernorm", &mean, c.layer_norm_eps) } else { Ok(mean) }
}

/// x: (batch, height, width, channels) → the same.
fn block(c: &ConvNextConfig, width: usize, d: &Drawing, x: &Edge) -> Result<Edge> {
    let depthwise = Conv { groups: width, ..Conv::even(1, 3) };
    let y = d.conv_layer("dwconv", &d.transpose(x, &CHANNELS_FIRST), depthwise)?;
    let y = d.layer_norm("layernorm", &d.transpose(&y, &CHANNELS_LAST), EPS)?;
    let mut y = d.activation(c.activation, &d.linear("pwconv1", &y)?)?;
    if c.response_norm {
        y = response_norm(&d.enter("grn"), &y)?;
    }
    let mut y = d.linear("pwconv2", &y)?;
    if c.layer_scale {
        y = d.mul(&y, &d.weight("layer_scale_parameter")?);
    }
    Ok(d.add(x, &y))
}

/// [`crate::ops::response_norm`].
fn response_norm(d: &Drawing, x: &Edge) -> Result<Edge> {
    let squares = d.sum(&d.sum(&d.mul(x, x), 1, true)?, 2, true)?;
    let norms = d.op("Sqrt", &[&squares]); // (batch, 1, 1, channels)
    let mean = d.add(&d.mean(&norms, &[-1], true), &d.number(RESPONSE_EPS as f32)?);
    let scaled = d.mul(&d.mul(x, &d.op("Div", &[&norms, &mean])), &d.weight("weight")?);
    Ok(d.add(&d.add(&scaled, &d.weight("bias")?), x))
}
