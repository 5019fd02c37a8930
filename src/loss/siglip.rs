//! `siglip`: the pairwise sigmoid loss of SigLIP (arXiv 2303.15343), each image with each report by itself.

use candle_core::{DType, Result, Tensor, bail};

use super::candidates::{similarities, with_opposites};
use super::false_negatives::FalseNegatives;
use super::objective::{Inputs, Needs, Objective, ObjectiveKind, Takes, TargetKind, Term};
use crate::metrics::Metric;
use crate::ops::reference::l2_normalize;

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "siglip",
    help: "a sigmoid of each image with each report of the batch",
    needs: Needs { reports: true, bias: true, places: false, targets: TargetKind::Pairs },
    takes: Takes {
        opposites: true,
        false_negatives: &[
            FalseNegatives::Keep,
            FalseNegatives::Remove,
            FalseNegatives::Soften,
            FalseNegatives::Positive,
        ],
        debias: false,
    },
    // SigLIP itself has none.
    label_smoothing: 0.0,
    best_metric: (Metric::MeanRecall, "it trains to tell each image's own report from the others"),
    build: |s| Box::new(SiglipLoss { label_smoothing: s.label_smoothing, false_negatives: s.false_negatives }),
};

/// `-Σᵢⱼ [tᵢⱼ log σ(zᵢⱼ) + (1 − tᵢⱼ) log σ(−zᵢⱼ)] / batch` with `z = scale · similarity + bias`; t is `1 − ε/2` on the
/// diagonal and `ε/2` elsewhere, smoothing over the two answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiglipLoss {
    /// ε; SigLIP itself has 0.
    pub label_smoothing: f64,
    /// What becomes of rows that are alike.
    pub false_negatives: FalseNegatives,
}

impl SiglipLoss {
    /// Every other row of the batch is a negative.
    pub fn plain(label_smoothing: f64) -> Self {
        Self { label_smoothing, false_negatives: FalseNegatives::Keep }
    }

    /// The loss where pairs count differently: `Σᵢⱼ wᵢⱼ [ln(1 + exp zᵢⱼ) − tᵢⱼ zᵢⱼ] / batch`, t smoothed over the two
    /// answers.
    fn of_candidates(&self, inputs: &Inputs, bias: &Tensor) -> Result<Term> {
        let z = similarities(inputs)?.broadcast_add(bias)?;
        let (batch, candidates) = z.dims2()?;
        let likeness = &inputs.targets.likeness;
        let weights = self.false_negatives.weights(likeness, batch)?;
        let own = |i: usize| f64::from(u8::from(i / batch == i % batch));
        let targets: Vec<f64> = match self.false_negatives {
            FalseNegatives::Positive => likeness.iter().enumerate().map(|(i, l)| own(i).max(*l)).collect(),
            _ => (0..batch * batch).map(own).collect(),
        };
        let weights = with_opposites(&weights, inputs, 1.0);
        let targets = with_opposites(&targets, inputs, 0.0);
        let eps = self.label_smoothing;
        let smoothed: Vec<f64> = targets.iter().map(|t| (1.0 - eps) * t + eps / 2.0).collect();
        let numbers = |values: Vec<f64>| -> Result<Tensor> {
            Tensor::from_vec(values, (batch, candidates), z.device())?.to_dtype(z.dtype())
        };
        let n = batch as f64;
        let softplus = (z.relu()? + (z.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let of_targets = |targets: &[f64]| -> Result<Tensor> {
            let weighted = targets.iter().zip(&weights).map(|(t, w)| t * w).collect();
            ((&softplus * numbers(weights.clone())?)?.sum_all()? - (&z * numbers(weighted)?)?.sum_all()?)? / n
        };
        let floor: f64 = smoothed.iter().zip(&weights).map(|(t, w)| w * entropy(*t)).sum();
        let all: f64 = weights.iter().sum();
        let share = smoothed.iter().zip(&weights).map(|(t, w)| w * t).sum::<f64>() / all;
        let joins = self.false_negatives != FalseNegatives::Keep;
        let right = |i: usize, k: usize| i == k || (joins && likeness[i * batch + k] > 0.0);
        Ok(Term {
            hard: of_targets(&targets)?.detach().to_dtype(DType::F64)?.to_scalar()?,
            loss: of_targets(&smoothed)?,
            floor: floor / n,
            chance: all * entropy(share) / n,
            accuracy: accuracy(&z.detach().narrow(1, 0, batch)?.contiguous()?, right)?,
        })
    }
}

/// Of one answer of two, in nats.
fn entropy(p: f64) -> f64 {
    if p > 0.0 && p < 1.0 { -p * p.ln() - (1.0 - p) * (1.0 - p).ln() } else { 0.0 }
}

impl Objective for SiglipLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        let text = inputs.reports()?;
        let Some(bias) = inputs.bias else { bail!("the sigmoid loss needs a model with logit_bias") };
        if inputs.opposed.is_some() || self.false_negatives != FalseNegatives::Keep {
            return self.of_candidates(inputs, bias);
        }
        let sims = l2_normalize(inputs.image)?.matmul(&l2_normalize(text)?.t()?)?; // (batch, batch)
        let z = sims.broadcast_mul(inputs.scale)?.broadcast_add(bias)?;
        let batch = z.dim(0)?;
        let sign = ((Tensor::eye(batch, z.dtype(), z.device())? * 2.0)? - 1.0)?;
        let signed = (&z * sign)?;
        // -log σ(x) = max(-x, 0) + log(1 + exp(-|x|)): no exponential grows.
        let right = (signed.neg()?.relu()? + (signed.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let n = batch as f64;
        let hard = (right.sum_all()? / n)?;
        // -log σ(-x) = -log σ(x) + x.
        let half = self.label_smoothing / 2.0;
        let loss = (&hard + (signed.sum_all()? * (half / n))?)?;
        // The best single answer to all pairs: each is one's own with probability 1/n, and then t is as above.
        let share = half + (1.0 - 2.0 * half) / n;
        Ok(Term {
            hard: hard.to_dtype(DType::F64)?.to_scalar()?,
            loss,
            floor: n * entropy(half),
            chance: n * entropy(share),
            accuracy: accuracy(&sims.detach(), |i, k| i == k)?,
        })
    }
}

/// Share of rows and columns of similarities, (batch, batch), whose highest is one that is `right`, which is symmetric.
fn accuracy(sims: &Tensor, right: impl Fn(usize, usize) -> bool) -> Result<f64> {
    let n = sims.dim(0)?;
    let mut found = 0;
    for sims in [sims.clone(), sims.t()?.contiguous()?] {
        let rows: Vec<Vec<f32>> = sims.to_vec2()?;
        let best = |(i, row): &(usize, &Vec<f32>)| {
            let most = (0..n).filter(|&k| right(*i, k)).map(|k| row[k]).fold(f32::NEG_INFINITY, f32::max);
            row.iter().enumerate().all(|(k, v)| right(*i, k) || *v < most)
        };
        found += rows.iter().enumerate().filter(best).count();
    }
    Ok(found as f64 / (2 * n) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::PairTargets;
    use candle_core::{Device, Var};

    /// The formula once more in f64; the gradients are compared with torch's in tests/it (encoders, objectives).
    #[test]
    fn agrees_with_logsigmoid_and_stays_finite() {
        let row = |x: f32| [x, (1.0 - x * x).sqrt()];
        let image = Tensor::new(&[row(1.0), row(0.0)], &Device::Cpu).unwrap();
        let text = Tensor::new(&[row(0.5), row(-0.5)], &Device::Cpu).unwrap();
        for (scale, bias) in [(10.0f32, -2.0f32), (1000.0, 0.0), (0.0, 0.0)] {
            let (scale, bias) = (Var::new(scale, &Device::Cpu).unwrap(), Var::new(bias, &Device::Cpu).unwrap());
            let targets = PairTargets::default();
            let inputs = Inputs {
                image: &image,
                text: Some(&text),
                scale: &scale,
                bias: Some(&bias),
                prompts: None,
                local: None,
                opposed: None,
                targets: &targets,
            };
            let output = SiglipLoss::plain(0.0).forward(&inputs).unwrap();
            let (s, b) = (scale.to_scalar::<f32>().unwrap() as f64, bias.to_scalar::<f32>().unwrap() as f64);
            let root = 0.75f64.sqrt();
            let z = [[0.5 * s + b, -0.5 * s + b], [root * s + b, root * s + b]];
            let softplus = |x: f64| if x > 30.0 { x } else { x.exp().ln_1p() };
            let expected = (softplus(-z[0][0]) + softplus(z[0][1]) + softplus(z[1][0]) + softplus(-z[1][1])) / 2.0;
            assert!((output.hard - expected).abs() <= 1e-5 * expected.max(1.0), "{} {expected}", output.hard);
            let grads = output.loss.backward().unwrap();
            for var in [&scale, &bias] {
                assert!(grads.get(var).unwrap().to_scalar::<f32>().unwrap().is_finite());
            }
        }
    }
}
