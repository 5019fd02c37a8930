//! AdamW over all trainable weights, with a learning rate for each part of the model.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var};
use rayon::prelude::*;

use crate::model::{Depth, MAX_LOGIT_SCALE, Param, Params, Part};
use crate::ops::profile;
use crate::ops::{AdamwStep, Gradient, SquaredSum, adamw_step, measured_adamw_step};

/// Gradients by weight name.
pub type Gradients = BTreeMap<String, Gradient>;

/// What does not change during training.
#[derive(Clone, Copy, Debug)]
pub struct AdamWOptions {
    /// Learning rate of the image tower.
    pub lr_image: f64,
    /// Learning rate of the text tower.
    pub lr_text: f64,
    /// Learning rate of projections and logit_scale.
    pub lr_heads: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// The rate of each block of a tower is this times that of the block above it; 1 = all alike.
    pub layer_decay: f64,
    /// Largest norm of the whole gradient; 0 = no clipping.
    pub clip_grad_norm: f64,
}

/// The optimizer and its moments.
pub struct AdamW {
    options: AdamWOptions,
    /// Updates so far.
    t: i32,
    /// First and second moment of each trainable weight.
    moments: BTreeMap<String, (Var, Var)>,
    /// Blocks of the image and of the text tower.
    blocks: [usize; 2],
    /// Updates before which a weight was frozen.
    starts: BTreeMap<String, i32>,
    /// `logit_scale` is kept at or below this.
    max_logit_scale: f32,
    /// Sums of squares of this update's gradients.
    measured: Vec<(String, SquaredSum)>,
}

/// Name of [`AdamW::max_logit_scale`] in a checkpoint: it is where the first run of a training began.
const MAX_LOGIT_SCALE_STATE: &str = "max_logit_scale";

impl AdamW {
    /// Moments of zero for the trainable weights of `params`.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn new(params: &Params, options: AdamWOptions) -> Result<Self> {
        // Not copied from a tensor of zeros: memory that nobody has touched yet costs nothing.
        let zeros = |p: &Param| Var::zeros(p.var.shape(), p.var.dtype(), p.var.device());
        let trainable: Vec<&Param> = params.trainable().collect();
        let moments = trainable.into_par_iter().map(|p| Ok((p.spec.name.clone(), (zeros(p)?, zeros(p)?))));
        let moments = moments.collect::<Result<Vec<_>>>()?;
        let blocks = [Part::Image, Part::Text].map(|part| {
            let block = |p: &Param| match p.spec.depth {
                Depth::Block(i) if p.spec.part == part => i + 1,
                _ => 0,
            };
            params.iter().map(block).max().unwrap_or(0)
        });
        // Published SigLIPs begin above CLIP's limit: that must not pull them down.
        let start = params.get("logit_scale").map(|p| p.var.to_device(&Device::Cpu)?.to_scalar::<f32>()).transpose()?;
        let max_logit_scale = start.unwrap_or(f32::NEG_INFINITY).max(MAX_LOGIT_SCALE as f32);
        let moments = moments.into_iter().collect();
        Ok(Self { options, t: 0, moments, blocks, starts: BTreeMap::new(), max_logit_scale, measured: Vec::new() })
    }

    /// Whether gradients are clipped by the norm of all together.
    pub fn clips(&self) -> bool {
        self.options.clip_grad_norm > 0.0
    }

    /// One update of all weights; `lr_factor` is the schedule's. Keeps `logit_scale` at or below ln 100, or where it
    /// started if that is more. Returns the gradient's norm before clipping.
    ///
    /// # Errors
    /// A gradient that is not finite: names the first such weight. Nothing is changed then.
    pub fn step(&mut self, params: &Params, grads: &Gradients, lr_factor: f64) -> Result<f64> {
        let _timed = profile::enter_backward(profile::Part::Optimizer);
        let sums = grads.iter().map(|(name, grad)| Ok((name.clone(), grad.begin_squared_sum()?)));
        let norm = norm(&sums.collect::<Result<Vec<_>>>()?)?;
        let clip = self.options.clip_grad_norm;
        // As torch.nn.utils.clip_grad_norm_, which adds 1e-6.
        let grad_scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.start();
        for param in params.trainable() {
            let name = &param.spec.name;
            let grad = grads.get(name).with_context(|| format!("{name} has no gradient"))?;
            self.update(param, grad, lr_factor, grad_scale)?;
        }
        Ok(norm)
    }

    /// Tells that this weight is frozen during the first `updates` updates: its moments begin to count then.
    pub fn starts_after(&mut self, name: &str, updates: u64) {
        self.starts.insert(name.to_string(), i32::try_from(updates).unwrap_or(i32::MAX));
    }

    /// Share of its part's rate that a weight has: BEiT's layer-wise decay, where what stands above the last block has
    /// all of it, that block `layer_decay` of it, and the embeddings the least.
    fn layer_factor(&self, param: &Param) -> f64 {
        let blocks = match param.spec.part {
            Part::Image => self.blocks[0],
            Part::Text => self.blocks[1],
            Part::Heads => return 1.0,
        };
        let below_the_top = match param.spec.depth {
            Depth::Embeddings => blocks + 1,
            Depth::Block(i) => blocks - i,
            Depth::Final => 0,
        };
        self.options.layer_decay.powi(below_the_top as i32)
    }

    /// Begins an update whose weights come one by one through [`Self::apply`].
    pub fn start(&mut self) {
        self.t += 1;
        self.measured.clear();
    }

    /// The norm of the gradients that came through [`Self::apply`] since [`Self::start`].
    ///
    /// # Errors
    /// As there, where a GPU told of it only now.
    pub fn finish(&mut self) -> Result<f64> {
        norm(&std::mem::take(&mut self.measured))
    }

    /// Updates one weight, without clipping.
    ///
    /// # Errors
    /// A gradient that is not finite: the training is over, the weight is not finite either.
    pub fn apply(&mut self, param: &Param, grad: &Gradient, lr_factor: f64) -> Result<()> {
        let _timed = profile::enter_backward(profile::Part::Optimizer);
        let (m, v) = self.moments(param)?;
        let squares = measured_adamw_step(&param.var, grad, m, v, &self.settings(param, lr_factor, 1.0))?;
        self.limit(param)?;
        if let SquaredSum::Known(squares) = squares {
            finite(&param.spec.name, squares)?;
        }
        self.measured.push((param.spec.name.clone(), squares));
        Ok(())
    }

    fn update(&self, param: &Param, grad: &Gradient, lr_factor: f64, grad_scale: f64) -> Result<()> {
        let (m, v) = self.moments(param)?;
        adamw_step(&param.var, grad, m, v, &self.settings(param, lr_factor, grad_scale))?;
        self.limit(param)
    }

    fn moments(&self, param: &Param) -> Result<&(Var, Var)> {
        self.moments.get(&param.spec.name).with_context(|| format!("{} has no optimizer state", param.spec.name))
    }

    fn settings(&self, param: &Param, lr_factor: f64, grad_scale: f64) -> AdamwStep {
        let (name, o) = (&param.spec.name, &self.options);
        let lr = match param.spec.part {
            Part::Image => o.lr_image,
            Part::Text => o.lr_text,
            Part::Heads => o.lr_heads,
        };
        AdamwStep {
            lr: lr * self.layer_factor(param) * lr_factor,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: if param.spec.decay { o.weight_decay } else { 0.0 },
            t: (self.t - self.starts.get(name).copied().unwrap_or(0)).max(1),
            grad_scale,
        }
    }

    /// Keeps `logit_scale` where it may be.
    fn limit(&self, param: &Param) -> Result<()> {
        if param.spec.name == "logit_scale" {
            param.var.set(&param.var.minimum(self.max_logit_scale)?)?;
        }
        Ok(())
    }

    /// All moments, `m.<weight>` and `v.<weight>`, and the limit of `logit_scale` where it is not CLIP's,
    /// for a checkpoint.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let pairs = self.moments.iter().flat_map(|(name, (m, v))| {
            [(format!("m.{name}"), m.as_detached_tensor()), (format!("v.{name}"), v.as_detached_tensor())]
        });
        let raised = self.max_logit_scale > MAX_LOGIT_SCALE as f32;
        let limit = raised.then(|| Tensor::full(self.max_logit_scale, (), &Device::Cpu).ok()).flatten();
        pairs.chain(limit.map(|limit| (MAX_LOGIT_SCALE_STATE.to_string(), limit))).collect()
    }

    /// Puts back what [`Self::state`] gave, after `t` updates.
    ///
    /// # Errors
    /// A moment is missing or of another shape.
    pub fn restore(&mut self, tensors: &std::collections::HashMap<String, Tensor>, t: u64) -> Result<()> {
        for (name, (m, v)) in &self.moments {
            for (key, var) in [(format!("m.{name}"), m), (format!("v.{name}"), v)] {
                let saved = tensors.get(&key).with_context(|| format!("the checkpoint has no {key}"))?;
                var.set(&saved.to_device(var.device())?).with_context(|| key)?;
            }
        }
        if let Some(limit) = tensors.get(MAX_LOGIT_SCALE_STATE) {
            self.max_logit_scale = limit.to_device(&Device::Cpu)?.to_scalar()?;
        }
        self.t = i32::try_from(t).context("too many updates")?;
        Ok(())
    }
}

/// The norm of all gradients together, from the sums of squares of each.
fn norm(sums: &[(String, SquaredSum)]) -> Result<f64> {
    let squares = SquaredSum::read_all(sums.iter().map(|(_, sum)| sum))?;
    let all = sums.iter().zip(squares).map(|((name, _), squares)| finite(name, squares));
    Ok(all.sum::<Result<f64>>()?.sqrt())
}

fn finite(name: &str, squares: f64) -> Result<f64> {
    ensure!(
        squares.is_finite(),
        "the gradient of {name} is not finite; a lower optim.lr or a longer optim.warmup often helps"
    );
    Ok(squares)
}
