//! The transformer block that most towers are made of, with the norms before the two branches (CLIP, ViT) or behind
//! them (BERT). Activations are (rows, width), the rows of a batch's items one after the other ([`Segments`]).

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::ensure;
use candle_core::Result;

use super::linear::Linear;
use super::noise::{self, Noise};
use super::norm::LayerNorm;
use crate::model::params::{Builder, Depth, Init};
use crate::ops::{self, Activation, Attention, PositionBias, Segments, Value};

/// The numbers of a stack of blocks.
#[derive(Clone, Debug)]
pub struct StackConfig {
    pub width: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub activation: Activation,
    pub layer_norm_eps: f64,
    /// Whether a row sees none behind it.
    pub causal: bool,
    /// Norms stand behind the branches.
    pub post_norm: bool,
    /// Whether keys have a bias. It changes no score's share; BEiT leaves it out.
    pub key_bias: bool,
    /// Each branch's output is multiplied by a learnt vector.
    pub layer_scale: bool,
    /// A learnt number for each pair of places.
    pub relative: Option<RelativePositions>,
}

/// Learnt scores by where query and key stand.
#[derive(Clone, Debug)]
pub struct RelativePositions {
    /// How many there are.
    pub entries: usize,
    /// Which belongs to each query and key.
    pub index: Arc<[u32]>,
}

/// What all transformers' shapes must satisfy; `name` is the tower's section in `config.json`.
pub fn check_transformer(name: &str, width: usize, heads: usize, layers: usize, eps: f64) -> anyhow::Result<()> {
    ensure!(
        heads > 0 && width.is_multiple_of(heads),
        "{name}: hidden_size {width} is not a multiple of num_attention_heads {heads}"
    );
    ensure!(eps > 0.0 && eps < 1.0, "{name}: layer_norm_eps is {eps}; allowed is above 0 and below 1");
    ensure!(layers <= 1024, "{name}: num_hidden_layers is {layers}; allowed is up to 1024");
    Ok(())
}

/// Multiply-adds of so many tokens' way through the blocks: projections, feed-forward layers, attention's two products.
pub fn transformer_multiply_adds(tokens: usize, layers: usize, width: usize, intermediate: usize) -> usize {
    layers * tokens * (4 * width * width + 2 * width * intermediate + 2 * tokens * width)
}

/// Numbers kept for the backward pass of so many tokens, about: what goes into both norms and comes out of them,
/// queries, keys, values, what attention makes of them, and `hidden` numbers of the feed-forward layer.
pub fn transformer_activations(tokens: usize, layers: usize, width: usize, hidden: usize) -> usize {
    tokens * layers * (8 * width + hidden)
}

/// Those of [`transformer_activations`] that only products read. Outputs of norms are such where norms stand before the
/// branches; those behind them are the residual stream.
pub fn transformer_operands(tokens: usize, layers: usize, width: usize, hidden: usize, post_norm: bool) -> usize {
    tokens * layers * ((if post_norm { 4 } else { 6 }) * width + hidden)
}

struct TransformerBlock {
    layer_norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    /// Layer scales of the two branches.
    scales: Option<[Value; 2]>,
    /// (entries, heads)
    relative: Option<Value>,
    config: StackConfig,
}

impl TransformerBlock {
    fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let (attention, mlp) = (b.enter("self_attn"), b.enter("mlp"));
        // Standard deviations as transformers initialises CLIP.
        let in_std = (c.width as f64).powf(-0.5) * (2.0 * c.layers as f64).powf(-0.5);
        let out_std = (c.width as f64).powf(-0.5);
        let square = |name: &str, std: f64| Linear::new(&attention, name, c.width, c.width, std);
        let scale = |name: &str| b.enter(name).vector("lambda", c.width, Init::Const(1.0));
        let relative = |RelativePositions { entries, .. }: &RelativePositions| {
            attention.enter("relative_position_bias").vector("table", (*entries, c.heads), Init::Const(0.0))
        };
        Ok(Self {
            layer_norm1: LayerNorm::new(b, "layer_norm1", c.width, c.layer_norm_eps)?,
            q: square("q_proj", in_std)?,
            k: if c.key_bias {
                square("k_proj", in_std)?
            } else {
                Linear::without_bias(&attention, "k_proj", c.width, c.width, in_std)?
            },
            v: square("v_proj", in_std)?,
            out: square("out_proj", out_std)?,
            layer_norm2: LayerNorm::new(b, "layer_norm2", c.width, c.layer_norm_eps)?,
            fc1: Linear::new(&mlp, "fc1", c.width, c.intermediate, (2.0 * c.width as f64).powf(-0.5))?,
            fc2: Linear::new(&mlp, "fc2", c.intermediate, c.width, in_std)?,
            scales: if c.layer_scale { Some([scale("layer_scale1")?, scale("layer_scale2")?]) } else { None },
            relative: c.relative.as_ref().map(relative).transpose()?,
            config: c.clone(),
        })
    }

    /// x: (rows, width) → the same.
    fn forward(&self, x: &Value, segments: &Segments) -> Result<Value> {
        let normed = self.before_attention(x)?.used_often();
        let attention = Attention::within(segments, self.config.heads, self.config.causal);
        let (q, k, v) = (self.q.operand(&normed)?, self.k.operand(&normed)?, self.v.operand(&normed)?);
        let bias = self.relative.as_ref().zip(self.config.relative.as_ref());
        let bias = bias.map(|(table, relative)| PositionBias {
            table: table.clone(),
            index: Arc::clone(&relative.index),
            mask: None,
        });
        self.after_attention(&attention.apply_biased(&q, &k, &v, bias.as_ref())?, x)
    }

    /// [`Self::forward`], of which only row `pooled[i]` of each item is wanted, (items, width): the other rows are
    /// looked at, but need no query, no output and no feed-forward layer of their own. With `causal`, the pooled row is
    /// its item's last.
    fn forward_pooled(&self, x: &Value, segments: &Segments, pooled: &[u32]) -> Result<Value> {
        if self.relative.is_some() {
            return ops::select_rows(&self.forward(x, segments)?, pooled);
        }
        let normed = self.before_attention(x)?.used_often();
        let q = self.q.operand(&ops::select_rows(&normed, pooled)?)?;
        let (k, v) = (self.k.operand(&normed)?, self.v.operand(&normed)?);
        let queries = Segments::even(pooled.len(), 1);
        let attention =
            Attention { heads: self.config.heads, queries, keys: segments.clone(), causal: false, window: None };
        self.after_attention(&attention.apply(&q, &k, &v)?, &ops::select_rows(x, pooled)?)
    }

    fn before_attention(&self, x: &Value) -> Result<Value> {
        if self.config.post_norm { Ok(x.clone()) } else { self.layer_norm1.operand(x) }
    }

    fn after_attention(&self, attended: &Value, x: &Value) -> Result<Value> {
        let [scale1, scale2] = match &self.scales {
            Some([one, two]) => [Some(one), Some(two)],
            None => [None, None],
        };
        let x = self.out.branch_end(scale1)?.onto(x, attended)?;
        if self.config.post_norm {
            let x = self.layer_norm1.forward(&x)?;
            let x = self.fc2.branch_end(scale2)?.feed_forward(&x, &x, &self.fc1, self.config.activation)?;
            return self.layer_norm2.forward(&x);
        }
        let normed = self.layer_norm2.operand(&x)?;
        self.fc2.branch_end(scale2)?.feed_forward(&x, &normed, &self.fc1, self.config.activation)
    }

    fn weights(&self) -> Vec<&Value> {
        let linears = [&self.q, &self.k, &self.v, &self.out, &self.fc1, &self.fc2];
        let norms = [&self.layer_norm1, &self.layer_norm2];
        let linears = linears.into_iter().flat_map(Linear::weights);
        let rest = self.scales.iter().flatten().chain(&self.relative);
        linears.chain(norms.into_iter().flat_map(LayerNorm::weights)).chain(rest).collect()
    }
}

/// `encoder.layers.0`, `encoder.layers.1`, …
pub struct Stack {
    blocks: Vec<Rc<TransformerBlock>>,
    recompute: bool,
    noise: Option<Rc<Noise>>,
}

impl Stack {
    pub fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let layers = b.enter("encoder.layers");
        let block =
            |i: usize| TransformerBlock::new(&layers.enter(&i.to_string()).depth(Depth::Block(i)), c).map(Rc::new);
        let blocks = (0..c.layers).map(block).collect::<Result<_>>()?;
        Ok(Self { blocks, recompute: b.recomputes(), noise: b.noise_here().map(|(noise, _)| noise) })
    }

    /// x: (rows, width), having passed the first `from` blocks → row `pooled[i]` of each item, (items, width). With
    /// causal blocks, the pooled row is its item's last: what stands behind it cannot reach it and is left out.
    pub fn forward_pooled(&self, from: usize, x: Value, segments: &Segments, pooled: &[u32]) -> Result<Value> {
        let Some(last) = self.blocks.last() else { return ops::select_rows(&x, pooled) };
        let x = self.forward(from..self.blocks.len() - 1, x, segments)?;
        last.forward_pooled(&x, segments, pooled)
    }

    /// x: (rows, width) → the same, through these blocks.
    pub fn forward(&self, blocks: Range<usize>, x: Value, segments: &Segments) -> Result<Value> {
        self.blocks[blocks].iter().try_fold(x, |x, block| {
            if !self.recompute {
                return block.forward(&x, segments);
            }
            let (again, segments) = (Rc::clone(block), segments.clone());
            noise::recomputed(self.noise.as_ref(), &x, &block.weights(), move |x| again.forward(x, &segments))
        })
    }

    /// [`Self::forward`] through all blocks from `from` on.
    pub fn forward_all(&self, from: usize, x: Value, segments: &Segments) -> Result<Value> {
        self.forward(from..self.blocks.len(), x, segments)
    }
}
