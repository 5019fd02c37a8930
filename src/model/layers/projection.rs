//! From a tower's state to the shared space.

use candle_core::Result;

use super::linear::Linear;
use crate::model::params::Builder;
use crate::ops::{Activation, Value};

/// What becomes of a tower's state before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projection {
    /// The state is the feature.
    None,
    /// One matrix.
    Linear {
        /// Whether a bias is added.
        bias: bool,
    },
    /// Two with a GELU between them.
    Mlp {
        /// Width between them.
        hidden: usize,
        /// Whether the first and the second have a bias.
        biases: (bool, bool),
    },
}

/// A projection over its weights.
pub enum Projector {
    None,
    Linear(Linear),
    Mlp(Linear, Linear),
}

impl Projector {
    /// `name.weight`, or `name.0.weight` and `name.2.weight` as in a sequence of three.
    pub fn new(b: &Builder, name: &str, kind: Projection, width: usize, embed_dim: usize) -> Result<Self> {
        let layer = |name: &str, from: usize, to: usize, bias: bool| {
            let std = (from as f64).powf(-0.5);
            if bias { Linear::new(b, name, from, to, std) } else { Linear::without_bias(b, name, from, to, std) }
        };
        Ok(match kind {
            Projection::None => Self::None,
            Projection::Linear { bias } => Self::Linear(layer(name, width, embed_dim, bias)?),
            Projection::Mlp { hidden, biases } => Self::Mlp(
                layer(&format!("{name}.0"), width, hidden, biases.0)?,
                layer(&format!("{name}.2"), hidden, embed_dim, biases.1)?,
            ),
        })
    }

    /// (items, width) → (items, embed_dim)
    pub fn forward(&self, x: &Value) -> Result<Value> {
        match self {
            Self::None => Ok(x.clone()),
            Self::Linear(layer) => layer.forward(x),
            Self::Mlp(first, second) => second.forward(&Activation::Gelu.apply(&first.forward(x)?)?),
        }
    }
}
