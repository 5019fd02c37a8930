//! An exponential moving average of the weights, which is what is evaluated and handed over.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{Tensor, Var};

use crate::model::Params;

/// Averages of all trainable weights beside the weights themselves; what is frozen is shared.
pub struct Ema {
    decay: f64,
    averaged: Params,
}

impl Ema {
    /// Starts at the weights as they are.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn new(params: &Params, decay: f64) -> Result<Self> {
        Ok(Self { decay, averaged: params.with_own_weights()? })
    }

    /// Takes in the weights after update number `t`, from 1. An average that has seen little forgets faster: the decay
    /// is at most (1 + t) / (10 + t), as in TensorFlow's `ExponentialMovingAverage` with `num_updates`. (timm's warm-up
    /// is another: 1 − (1 + t / gamma)^−power.)
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn update(&self, params: &Params, t: u64) -> Result<()> {
        let decay = self.decay.min((1.0 + t as f64) / (10.0 + t as f64));
        for (mean, now) in self.averaged.iter().zip(params.iter()).filter(|(_, now)| now.trainable) {
            mean.var.set(&((mean.var.as_tensor() * decay)? + (now.var.as_tensor() * (1.0 - decay))?)?)?;
        }
        Ok(())
    }

    /// The averaged weights.
    pub fn params(&self) -> &Params {
        &self.averaged
    }

    /// All averages, for a checkpoint.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.averaged.tensors()
    }

    /// Puts back what [`Self::state`] gave.
    ///
    /// # Errors
    /// A weight is missing or of another shape.
    pub fn restore(&self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for param in self.averaged.iter() {
            let name = &param.spec.name;
            let saved = tensors.get(name).with_context(|| format!("the checkpoint has no average of {name}"))?;
            let var: &Var = &param.var;
            var.set(&saved.to_device(var.device())?).with_context(|| name.clone())?;
        }
        Ok(())
    }
}
