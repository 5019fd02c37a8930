//! Layer normalisation with learnt weight, and bias where the tower has one.

use candle_core::Result;

use crate::model::params::{Builder, Init};
use crate::ops::{self, Value};

/// A layer norm over each row.
pub struct LayerNorm {
    weight: Value,       // (width)
    bias: Option<Value>, // (width)
    eps: f64,
}

impl LayerNorm {
    /// Fresh weights are 1, the bias 0.
    pub fn new(b: &Builder, name: &str, width: usize, eps: f64) -> Result<Self> {
        let bias = b.enter(name).vector("bias", width, Init::Const(0.0))?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(b, name, width, eps)? })
    }

    /// [`Self::new`] without a bias.
    pub fn without_bias(b: &Builder, name: &str, width: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: b.enter(name).vector("weight", width, Init::Const(1.0))?, bias: None, eps })
    }

    /// x: (rows, width) → the same.
    pub fn forward(&self, x: &Value) -> Result<Value> {
        ops::layer_norm(x, &self.weight, &self.bias()?, self.eps)
    }

    /// [`Self::forward`] for an output that only products read.
    pub fn operand(&self, x: &Value) -> Result<Value> {
        ops::layer_norm_operand(x, &self.weight, &self.bias()?, self.eps)
    }

    /// Zeros where there is none.
    fn bias(&self) -> Result<Value> {
        self.bias.clone().map_or_else(|| Ok(self.weight.tensor().zeros_like()?.into()), Ok)
    }

    /// All that a backward pass goes to.
    pub fn weights(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}
