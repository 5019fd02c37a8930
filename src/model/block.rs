//! The transformer block that most towers are made of, with the norms before the two branches (CLIP, ViT) or behind them
//! (BERT). Activations are (rows, width), the rows of a batch's items one after the other ([`Segments`]).

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::noise::Noise;
use super::params::{Builder, Depth, Init};
use crate::ops::{self, Activation, Attention, PositionBias, Segments, Value};

/// The numbers of a stack of blocks.
#[derive(Clone, Debug)]
pub(super) struct StackConfig {
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
    /// A learnt number for each pair of places: how many, and which belongs to each query and key.
    pub relative: Option<(usize, Arc<[u32]>)>,
}

pub(super) struct Linear {
    weight: Value,       // (out, in)
    bias: Option<Value>, // (out)
    adapter: Option<Adapter>,
    noise: Option<(Rc<Noise>, String)>,
}

/// A low-rank product beside a layer's weight.
#[derive(Clone)]
struct Adapter {
    a: Value, // (rank, in)
    b: Value, // (out, rank)
    /// alpha / rank
    scale: f64,
}

impl Linear {
    pub fn new(b: &Builder, name: &str, inner: usize, outer: usize, std: f64) -> Result<Self> {
        Self::with_bias(b, name, (inner, outer), std, true)
    }

    pub fn with_bias(b: &Builder, name: &str, (inner, outer): (usize, usize), std: f64, bias: bool) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            weight: b.matrix("weight", (outer, inner), Init::Normal(std))?,
            bias: if bias { Some(b.vector("bias", outer, Init::Const(0.0))?) } else { None },
            adapter: b.adapter()?.map(|(a, b, scale)| Adapter { a, b, scale }),
            noise: b.noise_here(),
        })
    }

    pub fn forward(&self, x: &Value) -> Result<Value> {
        let y = match &self.bias {
            Some(bias) => ops::linear(x, &self.weight, bias),
            None => ops::linear_no_bias(x, &self.weight),
        }?;
        match self.adapter(None)? {
            Some(adapter) => ops::add(&y, &adapter.forward(x, self.noise.as_ref())?),
            None => Ok(y),
        }
    }

    /// The same with each output multiplied by a number of `scale`, (out).
    pub fn scaled(&self, scale: Option<&Value>) -> Result<Scaled> {
        let scaled = |x: &Value| scale.map_or_else(|| Ok(x.clone()), |scale| ops::scale_rows(x, scale));
        let Some(bias) = &self.bias else { candle_core::bail!("a branch ends in a layer without bias") };
        let (adapter, noise) = (self.adapter(scale)?, self.noise.clone());
        Ok(Scaled { weight: scaled(&self.weight)?, bias: scaled(bias)?, adapter, noise })
    }

    /// The adapter with its scale, and `scale` of each output, taken into B.
    fn adapter(&self, scale: Option<&Value>) -> Result<Option<Adapter>> {
        let Some(Adapter { a, b, scale: factor }) = &self.adapter else { return Ok(None) };
        let constant = Tensor::full(*factor as f32, b.tensor().dim(0)?, b.tensor().device())?;
        let b = ops::scale_rows(b, &constant.into())?;
        let b = scale.map_or_else(|| Ok(b.clone()), |scale| ops::scale_rows(&b, scale))?;
        Ok(Some(Adapter { a: a.clone(), b, scale: 1.0 }))
    }

    pub fn weights(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.weight).chain(&self.bias).chain(self.adapter.iter().flat_map(|x| [&x.a, &x.b]))
    }
}

impl Adapter {
    fn forward(&self, x: &Value, noise: Option<&(Rc<Noise>, String)>) -> Result<Value> {
        let x = match noise {
            Some((noise, name)) => noise.masked(x, noise.adapter_dropout, &format!("{name}.lora"))?,
            None => x.clone(),
        };
        ops::linear_no_bias(&ops::linear_no_bias(&x, &self.a)?, &self.b)
    }
}

/// A layer at the end of a branch, with its scale taken in.
pub(super) struct Scaled {
    weight: Value,
    bias: Value,
    adapter: Option<Adapter>,
    noise: Option<(Rc<Noise>, String)>,
}

impl Scaled {
    /// `residual` plus the layer's output.
    pub fn onto(&self, residual: &Value, x: &Value) -> Result<Value> {
        if self.adapter.is_none() && !self.drops() {
            return ops::linear_residual(x, &self.weight, &self.bias, residual);
        }
        let y = ops::linear(x, &self.weight, &self.bias)?;
        let y = match &self.adapter {
            Some(adapter) => ops::add(&y, &adapter.forward(x, self.noise.as_ref())?)?,
            None => y,
        };
        let y = match &self.noise {
            Some((noise, name)) => noise.masked(&y, noise.dropout, name)?,
            None => y,
        };
        ops::add(residual, &y)
    }

    /// `residual` plus the layer's output for what the activation makes of x.
    pub fn activated_onto(&self, residual: &Value, x: &Value, activation: Activation) -> Result<Value> {
        if self.adapter.is_some() || self.drops() {
            return self.onto(residual, &activation.apply(x)?);
        }
        ops::activated_linear_residual(x, activation, &self.weight, &self.bias, residual)
    }

    fn drops(&self) -> bool {
        self.noise.as_ref().is_some_and(|(noise, _)| noise.dropout > 0.0)
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

    pub fn weights(&self) -> [&Value; 2] {
        [&self.weight, &self.bias]
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
    /// Layer scales of the two branches.
    scales: Option<[Value; 2]>,
    /// (entries, heads)
    relative: Option<Value>,
    config: StackConfig,
}

impl Block {
    fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let (attention, mlp) = (b.enter("self_attn"), b.enter("mlp"));
        // Standard deviations as transformers initialises CLIP.
        let in_std = (c.width as f64).powf(-0.5) * (2.0 * c.layers as f64).powf(-0.5);
        let out_std = (c.width as f64).powf(-0.5);
        let square = |name: &str, std: f64| Linear::new(&attention, name, c.width, c.width, std);
        let scale = |name: &str| b.enter(name).vector("lambda", c.width, Init::Const(1.0));
        let relative = |(entries, _): &(usize, _)| {
            attention.enter("relative_position_bias").vector("table", (*entries, c.heads), Init::Const(0.0))
        };
        Ok(Self {
            layer_norm1: LayerNorm::new(b, "layer_norm1", c.width, c.layer_norm_eps)?,
            q: square("q_proj", in_std)?,
            k: Linear::with_bias(&attention, "k_proj", (c.width, c.width), in_std, c.key_bias)?,
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
        let normed = self.before_attention(x)?;
        let attention = Attention::within(segments, self.config.heads, self.config.causal);
        let (q, k, v) = (self.q.forward(&normed)?, self.k.forward(&normed)?, self.v.forward(&normed)?);
        let bias = self.relative.as_ref().zip(self.config.relative.as_ref());
        let bias =
            bias.map(|(table, (_, index))| PositionBias { table: table.clone(), index: Arc::clone(index), mask: None });
        self.after_attention(&attention.apply_biased(&q, &k, &v, bias.as_ref())?, x)
    }

    /// [`Self::forward`], of which only row `pooled[i]` of each item is wanted, (items, width): the other rows are
    /// looked at, but need no query, no output and no feed-forward layer of their own. With `causal`, the pooled row is
    /// its item's last.
    fn forward_pooled(&self, x: &Value, segments: &Segments, pooled: &[u32]) -> Result<Value> {
        if self.relative.is_some() {
            return ops::select_rows(&self.forward(x, segments)?, pooled);
        }
        let normed = self.before_attention(x)?;
        let q = self.q.forward(&ops::select_rows(&normed, pooled)?)?;
        let (k, v) = (self.k.forward(&normed)?, self.v.forward(&normed)?);
        let queries = Segments::even(pooled.len(), 1);
        let attention = Attention { heads: self.config.heads, queries, keys: segments.clone(), causal: false };
        self.after_attention(&attention.apply(&q, &k, &v)?, &ops::select_rows(x, pooled)?)
    }

    fn before_attention(&self, x: &Value) -> Result<Value> {
        if self.config.post_norm { Ok(x.clone()) } else { self.layer_norm1.forward(x) }
    }

    fn after_attention(&self, attended: &Value, x: &Value) -> Result<Value> {
        let [scale1, scale2] = match &self.scales {
            Some([one, two]) => [Some(one), Some(two)],
            None => [None, None],
        };
        let x = self.out.scaled(scale1)?.onto(x, attended)?;
        if self.config.post_norm {
            let x = self.layer_norm1.forward(&x)?;
            let x = self.fc2.scaled(scale2)?.activated_onto(&x, &self.fc1.forward(&x)?, self.config.activation)?;
            return self.layer_norm2.forward(&x);
        }
        let hidden = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        self.fc2.scaled(scale2)?.activated_onto(&x, &hidden, self.config.activation)
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
            ops::recomputed(&x, &block.weights(), move |x| again.forward(x, &segments))
        })
    }

    /// [`Self::forward`] through all blocks from `from` on.
    pub fn forward_all(&self, from: usize, x: Value, segments: &Segments) -> Result<Value> {
        self.forward(from..self.blocks.len(), x, segments)
    }
}
