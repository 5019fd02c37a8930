//! Layer normalisation with learnt weight, and bias where the tower has one.

use candle_core::{DType, Result, Tensor};

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
        match &self.bias {
            Some(bias) => ops::layer_norm(x, &self.weight, bias, self.eps),
            None => {
                let zeros = Tensor::zeros(self.weight.tensor().shape(), DType::F32, x.tensor().device())?;
                ops::layer_norm(x, &self.weight, &zeros.into(), self.eps)
            }
        }
    }

    /// All that a backward pass goes to.
    pub fn weights(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.weight).chain(&self.bias)
    }
}
