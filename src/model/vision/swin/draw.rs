//! A Swin transformer as a graph.

use anyhow::Result;
use candle_core::Tensor;

use super::config::SwinConfig;
use super::layers::{Windows, offsets, quarters};
use crate::model::graph::{Conv, Drawing, Edge, Heads};
use crate::model::layers::drawn;
use crate::ops::Maps;

pub fn draw(c: &SwinConfig, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
    let e = d.enter("embeddings");
    let patches = e.conv_layer("patch_embedding", pixel_values, Conv::even(c.patch_size, 0))?;
    let mut x = e.layer_norm("norm", &d.pixels_as_rows(&patches)?, c.layer_norm_eps)?;
    for (s, &depth) in c.depths.iter().enumerate() {
        let d = d.enter(&format!("encoder.stages.{s}"));
        let map = Maps { items: 1, height: c.grid(s), width: c.grid(s) };
        for l in 0..depth {
            x = block(c, (s, l % 2 == 1), &d.enter(&format!("layers.{l}")), map, &x)?;
        }
        if s + 1 < c.depths.len() {
            let d = d.enter("downsample");
            let to = Maps { height: map.height / 2, width: map.width / 2, ..map };
            let together = d.gather(&x, &numbers(&d, "places", &quarters(map, to))?, 1);
            let shape = [0, to.rows() as i64, 4 * (c.embed_dim << s) as i64];
            let together = d.layer_norm("norm", &d.reshape(&together, &shape)?, c.layer_norm_eps)?;
            x = d.linear("reduction", &together)?;
        }
    }
    Ok(d.mean(&d.layer_norm("layernorm", &x, c.layer_norm_eps)?, &[1], false))
}

/// Row numbers as a constant.
fn numbers(d: &Drawing, name: &str, rows: &[u32]) -> Result<Edge> {
    let rows: Vec<i64> = rows.iter().map(|row| i64::from(*row)).collect();
    Ok(d.constant(name, Tensor::new(rows, &candle_core::Device::Cpu)?))
}

/// x: (batch, places, width) → the same.
fn block(c: &SwinConfig, (stage, shifted): (usize, bool), d: &Drawing, map: Maps, x: &Edge) -> Result<Edge> {
    let (width, window) = (c.embed_dim << stage, c.window);
    let (heads, places) = (Heads { heads: c.heads[stage], width, lead: 2 }, window * window);
    let windows = Windows::of(c, stage, shifted);
    let (rows, back) = windows.rows(map);
    let (attention, mlp) = (d.enter("self_attn"), d.enter("mlp"));
    let normed = d.gather(&d.layer_norm("layer_norm1", x, c.layer_norm_eps)?, &numbers(d, "windows", &rows)?, 1);
    let normed = d.reshape(&normed, &[0, (rows.len() / places) as i64, places as i64, width as i64])?;
    let split = |name: &str| d.split_heads(&attention.linear(name, &normed)?, heads);
    let mut scores = drawn::scores_of(&attention, &offsets(window))?.reshape((1, 1, heads.heads, places, places))?;
    if windows.shift > 0 {
        let mask = Tensor::new(&*windows.mask(map, &rows), scores.device())?;
        scores = scores.broadcast_add(&mask.reshape((1, rows.len() / places, 1, places, places))?)?;
    }
    let scores = attention.constant("relative_position_bias", scores);
    let mixed = d.attention([&split("q_proj")?, &split("k_proj")?, &split("v_proj")?], heads, Some(&scores))?;
    let mixed = d.gather(&d.reshape(&mixed, &[0, -1, width as i64])?, &numbers(d, "back", &back)?, 1);
    let x = d.add(x, &attention.linear("out_proj", &mixed)?);
    let hidden = mlp.linear("fc1", &d.layer_norm("layer_norm2", &x, c.layer_norm_eps)?)?;
    Ok(d.add(&x, &mlp.linear("fc2", &d.activation(c.activation, &hidden)?)?))
}
