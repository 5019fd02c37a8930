//! Linear layers, with the low-rank adapters that may stand beside them.

use std::rc::Rc;

use candle_core::{Result, Tensor};

use super::noise::Noise;
use crate::model::params::{Builder, Init};
use crate::ops::{self, Activation, Value};

/// `x · weightᵀ + bias`, plus the adapter's product where there is an adapter.
pub struct Linear {
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
    /// Fresh weights are normal with standard deviation `std`, the bias is 0.
    pub fn new(b: &Builder, name: &str, inner: usize, outer: usize, std: f64) -> Result<Self> {
        let bias = b.enter(name).vector("bias", outer, Init::Const(0.0))?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(b, name, inner, outer, std)? })
    }

    /// [`Self::new`] without a bias.
    pub fn without_bias(b: &Builder, name: &str, inner: usize, outer: usize, std: f64) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            weight: b.matrix("weight", (outer, inner), Init::Normal(std))?,
            bias: None,
            adapter: b.adapter()?.map(|(a, b, scale)| Adapter { a, b, scale }),
            noise: b.noise_here(),
        })
    }

    /// x: (rows, in) → (rows, out)
    pub fn forward(&self, x: &Value) -> Result<Value> {
        let y = affine(x, &self.weight, self.bias.as_ref())?;
        match self.adapter(None)? {
            Some(adapter) => ops::add(&y, &adapter.forward(x, self.noise.as_ref())?),
            None => Ok(y),
        }
    }

    /// [`Self::forward`] for an output that only products, attention or an activation before a product read.
    pub fn operand(&self, x: &Value) -> Result<Value> {
        match self.adapter {
            Some(_) => self.forward(x)?.as_operand(),
            None => ops::linear_operand(x, &self.weight, self.bias.as_ref()),
        }
    }

    /// The layer at the end of a branch, each output multiplied by a number of `scale`, (out).
    pub fn branch_end(&self, scale: Option<&Value>) -> Result<BranchEnd> {
        let scaled = |x: &Value| scale.map_or_else(|| Ok(x.clone()), |scale| ops::scale_rows(x, scale));
        let (adapter, noise) = (self.adapter(scale)?, self.noise.clone());
        let bias = self.bias.as_ref().map(scaled).transpose()?;
        Ok(BranchEnd { weight: scaled(&self.weight)?, bias, adapter, noise })
    }

    /// The adapter with its scale, and `scale` of each output, taken into B.
    fn adapter(&self, scale: Option<&Value>) -> Result<Option<Adapter>> {
        let Some(Adapter { a, b, scale: factor }) = &self.adapter else { return Ok(None) };
        let constant = Tensor::full(*factor as f32, b.tensor().dim(0)?, b.tensor().device())?;
        let constant = constant.to_dtype(b.tensor().dtype())?;
        let b = ops::scale_rows(b, &constant.into())?;
        let b = scale.map_or_else(|| Ok(b.clone()), |scale| ops::scale_rows(&b, scale))?;
        Ok(Some(Adapter { a: a.clone(), b, scale: 1.0 }))
    }

    /// All that a backward pass goes to.
    pub fn weights(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.weight).chain(&self.bias).chain(self.adapter.iter().flat_map(|x| [&x.a, &x.b]))
    }
}

fn affine(x: &Value, weight: &Value, bias: Option<&Value>) -> Result<Value> {
    match bias {
        Some(bias) => ops::linear(x, weight, bias),
        None => ops::linear_no_bias(x, weight),
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
pub struct BranchEnd {
    weight: Value,
    bias: Option<Value>,
    adapter: Option<Adapter>,
    noise: Option<(Rc<Noise>, String)>,
}

impl BranchEnd {
    /// `residual` plus the layer's output.
    pub fn onto(&self, residual: &Value, x: &Value) -> Result<Value> {
        if let (Some(bias), true) = (&self.bias, self.is_plain()) {
            return ops::linear_residual(x, &self.weight, bias, residual);
        }
        let y = affine(x, &self.weight, self.bias.as_ref())?;
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

    /// `residual` plus the layer's output for what the activation makes of that of `first` for x.
    pub fn feed_forward(&self, residual: &Value, x: &Value, first: &Linear, activation: Activation) -> Result<Value> {
        match &self.bias {
            Some(bias) if self.is_plain() && first.adapter.is_none() => {
                let (first, second) = ((&first.weight, first.bias.as_ref()), (&self.weight, bias));
                ops::feed_forward(x, first, activation, second, residual)
            }
            Some(bias) if self.is_plain() => {
                ops::activated_linear_residual(&first.operand(x)?, activation, &self.weight, bias, residual)
            }
            _ => self.onto(residual, &activation.apply(&first.operand(x)?)?),
        }
    }

    /// Whether there is neither an adapter nor dropout, so that one operation does it all.
    fn is_plain(&self) -> bool {
        self.adapter.is_none() && !self.noise.as_ref().is_some_and(|(noise, _)| noise.dropout > 0.0)
    }
}
