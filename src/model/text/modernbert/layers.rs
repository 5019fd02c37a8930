//! ModernBERT (arXiv 2412.13663): rotary positions, blocks that attend to the whole text or to a window in turns, gated
//! feed-forward layers, norms before the branches, no biases.

use std::rc::Rc;

use candle_core::{Result, Tensor};

use super::config::{ModernBertConfig, Reach};
use crate::model::layers::linear::Linear;
use crate::model::layers::noise::{self, Noise};
use crate::model::layers::norm::LayerNorm;
use crate::model::params::{Builder, Depth, Init};
use crate::model::text::tower::{PackedTexts, TextTower};
use crate::ops::{self, Activation, Attention, Rotary, Segments, Value};

/// transformers' `initializer_range`.
const STD: f64 = 0.02;

pub struct ModernBert {
    token_embedding: Value, // (vocab_size, width)
    norm: LayerNorm,
    blocks: Vec<Rc<ModernBertBlock>>,
    final_norm: LayerNorm,
    recompute: bool,
    noise: Option<Rc<Noise>>,
    config: ModernBertConfig,
}

impl ModernBert {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &ModernBertConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let block = |(i, reach): (usize, &Reach)| {
            let b = b.enter(&format!("encoder.layers.{i}")).depth(Depth::Block(i));
            ModernBertBlock::new(&b, c, *reach, i == 0).map(Rc::new)
        };
        let last = b.depth(Depth::Final);
        Ok(Self {
            token_embedding: e.matrix("token_embedding.weight", (c.vocab_size, c.width), Init::Normal(STD))?,
            norm: LayerNorm::without_bias(&e, "layer_norm", c.width, c.layer_norm_eps)?,
            blocks: c.blocks.iter().enumerate().map(block).collect::<Result<_>>()?,
            final_norm: LayerNorm::without_bias(&last, "final_layer_norm", c.width, c.layer_norm_eps)?,
            recompute: b.recomputes(),
            noise: b.noise_here().map(|(noise, _)| noise),
            config: c.clone(),
        })
    }
}

impl ModernBert {
    /// What the blocks make of the texts' tokens, (rows, width), and which are whose. Padding is left out: texts lie
    /// one after the other.
    fn blocks(&self, input_ids: &Tensor) -> Result<(Value, Segments)> {
        let c = &self.config;
        let PackedTexts { ids, segments, positions } = PackedTexts::of(input_ids, c, c.pad_id)?;
        let places = Rc::new((segments.clone(), positions));
        let mut x = self.norm.forward(&ops::embedding(&self.token_embedding, &ids)?)?; // (rows, width)
        for block in &self.blocks {
            x = if self.recompute {
                let (again, places) = (Rc::clone(block), Rc::clone(&places));
                let forward = move |x: &Value| again.forward(x, &places.0, &places.1);
                noise::recomputed(self.noise.as_ref(), &x, &block.weights(), forward)?
            } else {
                block.forward(&x, &places.0, &places.1)?
            };
        }
        Ok((x, segments))
    }
}

impl TextTower for ModernBert {
    fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let (x, segments) = self.blocks(input_ids)?;
        // The norm works on each token alone: where one is pooled, only that one needs it.
        match self.config.pool.rows(&segments) {
            Some(pooled) => self.final_norm.forward(&ops::select_rows(&x, &pooled)?),
            None => ops::mean_rows(&self.final_norm.forward(&x)?, &segments),
        }
    }

    fn with_tokens(&self, input_ids: &Tensor) -> Result<(Value, Value, Segments)> {
        let (x, segments) = self.blocks(input_ids)?;
        let tokens = self.final_norm.forward(&x)?;
        Ok((self.config.pool.rows_of(&tokens, &segments)?, tokens, segments))
    }
}

struct ModernBertBlock {
    /// The first block has none: the embeddings come normed.
    attention_norm: Option<LayerNorm>,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    mlp_norm: LayerNorm,
    fc1: Linear,
    gate: Linear,
    fc2: Linear,
    window: Option<usize>,
    rotary: Rotary,
    activation: Activation,
}

impl ModernBertBlock {
    fn new(b: &Builder, c: &ModernBertConfig, reach: Reach, first: bool) -> Result<Self> {
        let (attention, mlp) = (b.enter("self_attn"), b.enter("mlp"));
        let out_std = STD / (2.0 * c.blocks.len() as f64).sqrt();
        let square = |name: &str, std: f64| Linear::without_bias(&attention, name, c.width, c.width, std);
        let norm = |name: &str| LayerNorm::without_bias(b, name, c.width, c.layer_norm_eps);
        Ok(Self {
            attention_norm: (!first).then(|| norm("layer_norm1")).transpose()?,
            q: square("q_proj", STD)?,
            k: square("k_proj", STD)?,
            v: square("v_proj", STD)?,
            out: square("out_proj", out_std)?,
            mlp_norm: norm("layer_norm2")?,
            fc1: Linear::without_bias(&mlp, "fc1", c.width, c.intermediate, STD)?,
            gate: Linear::without_bias(&mlp, "gate", c.width, c.intermediate, STD)?,
            fc2: Linear::without_bias(&mlp, "fc2", c.intermediate, c.width, out_std)?,
            window: reach.window,
            rotary: Rotary { heads: c.heads, theta: reach.theta },
            activation: c.activation,
        })
    }

    /// x: (rows, width) → the same.
    fn forward(&self, x: &Value, segments: &Segments, positions: &[u32]) -> Result<Value> {
        let normed = self.attention_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.operand(x))?.used_often();
        let turned = |layer: &Linear| self.rotary.apply(&layer.operand(&normed)?, positions);
        let attention = Attention { window: self.window, ..Attention::within(segments, self.rotary.heads, false) };
        let attended = attention.apply(&turned(&self.q)?, &turned(&self.k)?, &self.v.operand(&normed)?)?;
        let x = self.out.branch_end(None)?.onto(x, &attended)?;
        let normed = self.mlp_norm.operand(&x)?.used_often();
        let (hidden, gate) = (self.fc1.operand(&normed)?, self.gate.operand(&normed)?);
        self.fc2.branch_end(None)?.onto(&x, &ops::gated(&hidden, &gate, self.activation)?)
    }

    fn weights(&self) -> Vec<&Value> {
        let linears = [&self.q, &self.k, &self.v, &self.out, &self.fc1, &self.gate, &self.fc2];
        let norms = self.attention_norm.iter().chain([&self.mlp_norm]);
        linears.into_iter().flat_map(Linear::weights).chain(norms.flat_map(LayerNorm::weights)).collect()
    }
}
