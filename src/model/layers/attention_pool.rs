//! SigLIP's head.

use candle_core::Result;

use super::linear::Linear;
use super::norm::LayerNorm;
use crate::model::params::{Builder, Init};
use crate::ops::{self, Activation, Attention, Segments, Value};

/// A learnt query gathers from all rows; a feed-forward layer follows.
pub struct AttentionPool {
    probe: Value, // (width)
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    heads: usize,
    activation: Activation,
}

/// The numbers of an [`AttentionPool`].
pub struct AttentionPoolConfig {
    /// Width of a row.
    pub width: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Attention heads.
    pub heads: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
}

impl AttentionPool {
    pub fn new(b: &Builder, c: &AttentionPoolConfig) -> Result<Self> {
        let (attention, mlp) = (b.enter("attention"), b.enter("mlp"));
        let std = (c.width as f64).powf(-0.5);
        let square = |name: &str| Linear::new(&attention, name, c.width, c.width, std);
        Ok(Self {
            probe: b.vector("probe", c.width, Init::Normal(std))?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            out: square("out_proj")?,
            norm: LayerNorm::new(b, "layernorm", c.width, c.layer_norm_eps)?,
            fc1: Linear::new(&mlp, "fc1", c.width, c.intermediate, std)?,
            fc2: Linear::new(&mlp, "fc2", c.intermediate, c.width, std)?,
            heads: c.heads,
            activation: c.activation,
        })
    }

    pub fn forward(&self, x: &Value, segments: &Segments) -> Result<Value> {
        let items = segments.items();
        let probe = self.probe.reshape((1, self.probe.tensor().elem_count()))?;
        let q = ops::select_rows(&self.q.operand(&probe)?, &vec![0; items])?;
        let queries = Segments::even(items, 1);
        let attention = Attention { heads: self.heads, queries, keys: segments.clone(), causal: false, window: None };
        let gathered = self.out.forward(&attention.apply(&q, &self.k.operand(x)?, &self.v.operand(x)?)?)?;
        let normed = self.norm.operand(&gathered)?;
        self.fc2.branch_end(None)?.feed_forward(&gathered, &normed, &self.fc1, self.activation)
    }
}
