//! The pre-norm transformer block that both CLIP towers are made of. Activations are (rows, width), the rows of a batch's
//! items one after the other ([`Segments`]).

use std::ops::Range;
use std::rc::Rc;

use candle_core::Result;

use super::params::{Builder, Depth, Init};
use crate::ops::{self, Activation, Attention, Segments, Value};

/// The numbers of a stack of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackConfig {
    pub width: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub activation: Activation,
    pub layer_norm_eps: f64,
    /// Whether a row sees none behind it.
    pub causal: bool,
}

pub(super) struct Linear {
    weight: Value, // (out, in)
    bias: Value,   // (out)
}

impl Linear {
    pub fn new(b: &Builder, name: &str, inner: usize, outer: usize, std: f64) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            weight: b.matrix("weight", (outer, inner), Init::Normal(std))?,
            bias: b.vector("bias", outer, Init::Const(0.0))?,
        })
    }

    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::linear(x, &self.weight, &self.bias)
    }
}

pub(super) struct LayerNorm {
    weight: Value, // (width)
    bias: Value,   // (width)
    eps: f64,
}

impl LayerNorm {
    pub fn new(b: &Builder, name: &str, width: usize, eps: f64) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            weight: b.vector("weight", width, Init::Const(1.0))?,
            bias: b.vector("bias", width, Init::Const(0.0))?,
            eps,
        })
    }

    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

struct Block {
    layer_norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    config: StackConfig,
}

impl Block {
    fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let (attention, mlp) = (b.enter("self_attn"), b.enter("mlp"));
        // Standard deviations as transformers initialises CLIP.
        let in_std = (c.width as f64).powf(-0.5) * (2.0 * c.layers as f64).powf(-0.5);
        let out_std = (c.width as f64).powf(-0.5);
        let square = |name: &str, std: f64| Linear::new(&attention, name, c.width, c.width, std);
        Ok(Self {
            layer_norm1: LayerNorm::new(b, "layer_norm1", c.width, c.layer_norm_eps)?,
            q: square("q_proj", in_std)?,
            k: square("k_proj", in_std)?,
            v: square("v_proj", in_std)?,
            out: square("out_proj", out_std)?,
            layer_norm2: LayerNorm::new(b, "layer_norm2", c.width, c.layer_norm_eps)?,
            fc1: Linear::new(&mlp, "fc1", c.width, c.intermediate, (2.0 * c.width as f64).powf(-0.5))?,
            fc2: Linear::new(&mlp, "fc2", c.intermediate, c.width, in_std)?,
            config: *c,
        })
    }

    /// x: (rows, width) → the same.
    fn forward(&self, x: &Value, segments: &Segments) -> Result<Value> {
        let normed = self.layer_norm1.forward(x)?;
        let attention = Attention::within(segments, self.config.heads, self.config.causal);
        let (q, k, v) = (self.q.forward(&normed)?, self.k.forward(&normed)?, self.v.forward(&normed)?);
        self.after_attention(&attention.apply(&q, &k, &v)?, x)
    }

    /// [`Self::forward`], of which only row `pooled[i]` of each item is wanted, (items, width): the other rows are
    /// looked at, but need no query, no output and no feed-forward layer of their own. With `causal`, the pooled row is
    /// its item's last.
    fn forward_pooled(&self, x: &Value, segments: &Segments, pooled: &[u32]) -> Result<Value> {
        let normed = self.layer_norm1.forward(x)?;
        let q = self.q.forward(&ops::select_rows(&normed, pooled)?)?;
        let (k, v) = (self.k.forward(&normed)?, self.v.forward(&normed)?);
        let queries = Segments::even(pooled.len(), 1);
        let attention = Attention { heads: self.config.heads, queries, keys: segments.clone(), causal: false };
        self.after_attention(&attention.apply(&q, &k, &v)?, &ops::select_rows(x, pooled)?)
    }

    fn after_attention(&self, attended: &Value, x: &Value) -> Result<Value> {
        let x = ops::linear_residual(attended, &self.out.weight, &self.out.bias, x)?;
        let hidden = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        ops::activated_linear_residual(&hidden, self.config.activation, &self.fc2.weight, &self.fc2.bias, &x)
    }

    fn weights(&self) -> Vec<&Value> {
        let linears = [&self.q, &self.k, &self.v, &self.out, &self.fc1, &self.fc2];
        let norms = [&self.layer_norm1, &self.layer_norm2];
        let linears = linears.into_iter().flat_map(|l| [&l.weight, &l.bias]);
        linears.chain(norms.into_iter().flat_map(|n| [&n.weight, &n.bias])).collect()
    }
}

/// `encoder.layers.0`, `encoder.layers.1`, …
pub(super) struct Stack {
    blocks: Vec<Rc<Block>>,
    recompute: bool,
}

impl Stack {
    pub fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let layers = b.enter("encoder.layers");
        let block = |i: usize| Block::new(&layers.enter(&i.to_string()).depth(Depth::Block(i)), c).map(Rc::new);
        Ok(Self { blocks: (0..c.layers).map(block).collect::<Result<_>>()?, recompute: b.recomputes() })
    }

    /// x: (rows, width) → row `pooled[i]` of each item, (items, width). With causal blocks, the pooled row is its item's
    /// last: what stands behind it cannot reach it and is left out.
    pub fn forward_pooled(&self, x: Value, segments: &Segments, pooled: &[u32]) -> Result<Value> {
        self.forward_pooled_from(0, x, segments, pooled)
    }

    /// [`Self::forward_pooled`] where `x` has passed the first `from` blocks.
    pub fn forward_pooled_from(&self, from: usize, x: Value, segments: &Segments, pooled: &[u32]) -> Result<Value> {
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
            ops::recomputed(&x, &block.weights(), move |x| again.forward(x, &segments))
        })
    }
}
