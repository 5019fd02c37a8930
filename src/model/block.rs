//! The pre-norm transformer block that both CLIP towers are made of.

use candle_core::{Result, Tensor};

use super::config::Activation;
use super::params::{Builder, Depth, Init};
use crate::ops;

/// The numbers of a stack of blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct StackConfig {
    pub width: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub activation: Activation,
    pub layer_norm_eps: f64,
}

pub(super) struct Linear {
    weight: Tensor, // (out, in)
    bias: Tensor,   // (out)
}

impl Linear {
    pub fn new(b: &Builder, name: &str, inner: usize, outer: usize, std: f64) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            weight: b.matrix("weight", (outer, inner), Init::Normal(std))?,
            bias: b.vector("bias", outer, Init::Const(0.0))?,
        })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, &self.bias)
    }
}

pub(super) struct LayerNorm {
    weight: Tensor, // (width)
    bias: Tensor,   // (width)
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

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let b = b.enter("self_attn");
        // Standard deviations as transformers initialises CLIP.
        let (in_std, out_std) = (in_std(c), (c.width as f64).powf(-0.5));
        let linear = |name: &str, std: f64| Linear::new(&b, name, c.width, c.width, std);
        Ok(Self {
            q: linear("q_proj", in_std)?,
            k: linear("k_proj", in_std)?,
            v: linear("v_proj", in_std)?,
            out: linear("out_proj", out_std)?,
            heads: c.heads,
        })
    }

    fn forward(&self, x: &Tensor, causal: bool) -> Result<Tensor> {
        let (q, k, v) = (self.q.forward(x)?, self.k.forward(x)?, self.v.forward(x)?);
        self.out.forward(&ops::attention(&q, &k, &v, self.heads, causal)?)
    }
}

struct Block {
    layer_norm1: LayerNorm,
    attention: Attention,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Block {
    fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let mlp = b.enter("mlp");
        Ok(Self {
            layer_norm1: LayerNorm::new(b, "layer_norm1", c.width, c.layer_norm_eps)?,
            attention: Attention::new(b, c)?,
            layer_norm2: LayerNorm::new(b, "layer_norm2", c.width, c.layer_norm_eps)?,
            fc1: Linear::new(&mlp, "fc1", c.width, c.intermediate, (2.0 * c.width as f64).powf(-0.5))?,
            fc2: Linear::new(&mlp, "fc2", c.intermediate, c.width, in_std(c))?,
            activation: c.activation,
        })
    }

    fn forward(&self, x: &Tensor, causal: bool) -> Result<Tensor> {
        let x = (x + self.attention.forward(&self.layer_norm1.forward(x)?, causal)?)?;
        let hidden = self.fc1.forward(&self.layer_norm2.forward(&x)?)?;
        let hidden = match self.activation {
            Activation::QuickGelu => ops::quick_gelu(&hidden)?,
            Activation::Gelu => ops::gelu(&hidden)?,
        };
        x + self.fc2.forward(&hidden)?
    }
}

fn in_std(c: &StackConfig) -> f64 {
    (c.width as f64).powf(-0.5) * (2.0 * c.layers as f64).powf(-0.5)
}

/// `encoder.layers.0`, `encoder.layers.1`, …
pub(super) struct Stack(Vec<Block>);

impl Stack {
    pub fn new(b: &Builder, c: &StackConfig) -> Result<Self> {
        let layers = b.enter("encoder.layers");
        (0..c.layers)
            .map(|i| Block::new(&layers.enter(&i.to_string()).depth(Depth::Block(i)), c))
            .collect::<Result<Vec<_>>>()
            .map(Self)
    }

    /// x: (batch, tokens, width) → the same; with `causal`, a token sees none behind it.
    pub fn forward(&self, x: Tensor, causal: bool) -> Result<Tensor> {
        self.0.iter().try_fold(x, |x, block| block.forward(&x, causal))
    }
}
