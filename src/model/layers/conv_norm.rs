//! Convolutions with the batch norm behind them.
//!
//! Batch normalisation keeps the statistics that the weights came with, in training too: a contrastive batch is small,
//! and what one image becomes must not depend on the others beside it, or chunks of a step would not add up to the
//! step. Scale and shift are trained. So each norm is taken into the convolution before it and costs no pass of its
//! own.

use candle_core::Result;

use crate::model::params::{Builder, Init};
use crate::ops::{self, Conv2d, Maps, Value};

/// A batch norm with fixed statistics.
pub struct BatchNorm {
    scale: Value,    // (channels)
    shift: Value,    // (channels)
    mean: Value,     // (channels)
    variance: Value, // (channels)
    eps: f64,
}

impl BatchNorm {
    /// Under `name` of `b`.
    pub fn new(b: &Builder, name: &str, channels: usize, eps: f64) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            scale: b.vector("weight", channels, Init::Const(1.0))?,
            shift: b.vector("bias", channels, Init::Const(0.0))?,
            mean: b.buffer("running_mean", channels, Init::Const(0.0))?,
            variance: b.buffer("running_var", channels, Init::Const(1.0))?,
            eps,
        })
    }

    /// The kernel and the bias of a convolution that does what one with this `weight`, (channels, …), and the norm
    /// behind it do: `(conv(x) − mean) / √(variance + ε) · scale + shift`.
    pub fn taken_into(&self, weight: &Value) -> Result<(Value, Value)> {
        let rstd = (self.variance.tensor() + self.eps)?.sqrt()?.recip()?;
        let scale = ops::multiply(&self.scale, &rstd.into())?;
        let shift = ops::add(&self.shift, &ops::multiply(&scale, &self.mean.tensor().neg()?.into())?)?;
        Ok((ops::scale_rows(weight, &scale)?, shift))
    }
}

/// The numbers of a convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvConfig {
    /// Channels in.
    pub inner: usize,
    /// Channels out.
    pub outer: usize,
    /// Pixels a side of the kernel.
    pub kernel: usize,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Zeros around each map.
    pub padding: usize,
}

/// A convolution without bias, a batch norm, and a ReLU where it is asked for.
pub struct ConvNorm {
    weight: Value, // (out, in, kernel, kernel)
    norm: BatchNorm,
    config: ConvConfig,
}

impl ConvNorm {
    /// The kernel is `weight` of `conv`.
    pub fn new(b: &Builder, conv: &str, norm: BatchNorm, config: ConvConfig) -> Result<Self> {
        let ConvConfig { inner, outer, kernel, .. } = config;
        let std = (2.0 / (outer * kernel * kernel) as f64).sqrt();
        let weight = b.enter(conv).matrix("weight", (outer, inner, kernel, kernel), Init::Normal(std))?;
        Ok(Self { weight, norm, config })
    }

    /// `residual` is added before the ReLU. x: (rows of `maps`, in).
    pub fn forward(&self, x: &Value, maps: Maps, residual: Option<&Value>, relu: bool) -> Result<(Value, Maps)> {
        let (weight, bias) = self.norm.taken_into(&self.weight)?;
        let ConvConfig { stride, padding, .. } = self.config;
        Conv2d { weight: &weight, bias: Some(&bias), residual, stride, padding, relu }.apply(x, maps)
    }
}
