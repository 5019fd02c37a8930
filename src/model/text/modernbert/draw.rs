//! ModernBERT as a graph.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::config::{ModernBertConfig, Reach};
use crate::model::graph::{Attribute, Drawing, Edge, FLOAT, Heads};
use crate::model::text::pool::TextPool;
use crate::ops::Rotary;

/// What every block goes by: what is added to scores, near and all, and the turns of each base of frequencies.
struct Places {
    places: Edge,
    padding: Edge,
    /// Cosines and sines of each base, (tokens, half of a head).
    turns: Vec<(f64, [Edge; 2])>,
    /// What each window adds beside the padding.
    windows: Vec<(usize, Edge)>,
}

pub fn draw(c: &ModernBertConfig, d: &Drawing, input_ids: &Edge, attention_mask: &Edge) -> Result<Edge> {
    let e = d.enter("embeddings");
    let x = d.gather(&e.weight("token_embedding.weight")?, input_ids, 0);
    let mut x = e.layer_norm("layer_norm", &x, c.layer_norm_eps)?;
    let (places, padding) = (d.places(input_ids)?, d.without_padding(attention_mask)?);
    let mut places = Places { places, padding, turns: Vec::new(), windows: Vec::new() };
    for (i, reach) in c.blocks.iter().enumerate() {
        let turns = places.turns(c, d, reach.theta)?;
        let added = places.added(d, reach)?;
        x = block(c, &d.enter(&format!("encoder.layers.{i}")), (&turns, &added), &x)?;
    }
    // The norm works on each token alone.
    if c.pool == TextPool::Mean {
        x = d.layer_norm("final_layer_norm", &x, c.layer_norm_eps)?;
        return c.pool.draw(d, &x, attention_mask);
    }
    d.layer_norm("final_layer_norm", &c.pool.draw(d, &x, attention_mask)?, c.layer_norm_eps)
}

impl Places {
    fn turns(&mut self, c: &ModernBertConfig, d: &Drawing, theta: f64) -> Result<[Edge; 2]> {
        if let Some((_, turns)) = self.turns.iter().find(|(known, _)| *known == theta) {
            return Ok(turns.clone());
        }
        let frequencies = Rotary { heads: c.heads, theta }.frequencies(c.width);
        let frequencies = d.constant("frequencies", Tensor::new(frequencies, &Device::Cpu)?);
        let places = d.op("Unsqueeze", &[&d.cast(&self.places, FLOAT), &d.ints(&[1])?]);
        let angles = d.mul(&places, &frequencies);
        let turns = [d.op("Cos", &[&angles]), d.op("Sin", &[&angles])];
        self.turns.push((theta, turns.clone()));
        Ok(turns)
    }

    fn added(&mut self, d: &Drawing, reach: &Reach) -> Result<Edge> {
        let Some(window) = reach.window else { return Ok(self.padding.clone()) };
        if let Some((_, added)) = self.windows.iter().find(|(known, _)| *known == window) {
            return Ok(added.clone());
        }
        let queries = d.op("Unsqueeze", &[&self.places, &d.ints(&[1])?]);
        let apart = d.op("Abs", &[&d.op("Sub", &[&self.places, &queries])]);
        let near = d.op("LessOrEqual", &[&apart, &d.int(window as i64)?]);
        let added = d.add(&d.unless_seen(&near)?, &self.padding);
        self.windows.push((window, added.clone()));
        Ok(added)
    }
}

/// x: (batch, tokens, width) → the same.
fn block(c: &ModernBertConfig, d: &Drawing, (turns, added): (&[Edge; 2], &Edge), x: &Edge) -> Result<Edge> {
    let (attention, mlp) = (d.enter("self_attn"), d.enter("mlp"));
    let heads = Heads { heads: c.heads, width: c.width, lead: 1 };
    let first = !d.has("layer_norm1.weight");
    let normed = if first { x.clone() } else { d.layer_norm("layer_norm1", x, c.layer_norm_eps)? };
    let split = |name: &str| d.split_heads(&attention.linear(name, &normed)?, heads);
    let (q, k) = (turned(d, turns, &split("q_proj")?, heads)?, turned(d, turns, &split("k_proj")?, heads)?);
    let mixed = d.attention([&q, &k, &split("v_proj")?], heads, Some(added))?;
    let x = d.add(x, &attention.linear("out_proj", &mixed)?);
    let normed = d.layer_norm("layer_norm2", &x, c.layer_norm_eps)?;
    let hidden = d.mul(&d.activation(c.activation, &mlp.linear("fc1", &normed)?)?, &mlp.linear("gate", &normed)?);
    Ok(d.add(&x, &mlp.linear("fc2", &hidden)?))
}

/// Rows turned to their places. x: (batch, heads, tokens, width of a head) → the same.
fn turned(d: &Drawing, [cos, sin]: &[Edge; 2], x: &Edge, heads: Heads) -> Result<Edge> {
    let half = (heads.width / heads.heads / 2) as i64;
    let part = |from: i64| d.slice(x, 3, &d.ints(&[from])?, &d.ints(&[from + half])?);
    let (x1, x2) = (part(0)?, part(half)?);
    let y1 = d.op("Sub", &[&d.mul(&x1, cos), &d.mul(&x2, sin)]);
    let y2 = d.add(&d.mul(&x2, cos), &d.mul(&x1, sin));
    Ok(d.op_with("Concat", &[&y1, &y2], &[("axis", Attribute::Int(3))]))
}
