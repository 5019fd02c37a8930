//! `siglip`: the pairwise sigmoid loss of SigLIP (arXiv 2303.15343), each image with each report by itself.

use candle_core::{DType, Result, Tensor, bail};

use super::objective::{Inputs, Needs, Objective, ObjectiveKind, TargetKind, Term};
use crate::metrics::Metric;
use crate::ops::reference::l2_normalize;

pub(super) const KIND: ObjectiveKind = ObjectiveKind {
    name: "siglip",
    help: "a sigmoid of each image with each report of the batch",
    needs: Needs { reports: true, bias: true, places: false, targets: TargetKind::Pairs },
    // SigLIP itself has none.
    label_smoothing: 0.0,
    best_metric: (Metric::MeanRecall, "it trains to tell each image's own report from the others"),
    build: |s| Box::new(SiglipLoss { label_smoothing: s.label_smoothing }),
};

/// `-Σᵢⱼ [tᵢⱼ log σ(zᵢⱼ) + (1 − tᵢⱼ) log σ(−zᵢⱼ)] / batch` with `z = scale · similarity + bias`; t is `1 − ε/2` on the
/// diagonal and `ε/2` elsewhere, smoothing over the two answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SiglipLoss {
    /// ε; SigLIP itself has 0.
    pub label_smoothing: f64,
}

impl Objective for SiglipLoss {
    fn kind(&self) -> &'static ObjectiveKind {
        &KIND
    }

    fn forward(&self, inputs: &Inputs) -> Result<Term> {
        let text = inputs.reports()?;
        let Some(bias) = inputs.bias else { bail!("the sigmoid loss needs a model with logit_bias") };
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
        let entropy = |p: f64| if p > 0.0 && p < 1.0 { -p * p.ln() - (1.0 - p) * (1.0 - p).ln() } else { 0.0 };
        // The best single answer to all pairs: each is one's own with probability 1/n, and then t is as above.
        let share = half + (1.0 - 2.0 * half) / n;
        Ok(Term {
            hard: hard.to_dtype(DType::F64)?.to_scalar()?,
            loss,
            floor: n * entropy(half),
            chance: n * entropy(share),
            accuracy: accuracy(&sims.detach())?,
        })
    }
}

/// Share of rows and columns of similarities whose highest is on the diagonal.
fn accuracy(sims: &Tensor) -> Result<f64> {
    let n = sims.dim(0)?;
    let mut right = 0;
    for sims in [sims.clone(), sims.t()?.contiguous()?] {
        let rows: Vec<Vec<f32>> = sims.to_vec2()?;
        let best = |(i, row): &(usize, &Vec<f32>)| row.iter().enumerate().all(|(k, v)| k == *i || *v < row[*i]);
        right += rows.iter().enumerate().filter(best).count();
    }
    Ok(right as f64 / (2 * n) as f64)
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
                targets: &targets,
            };
            let output = SiglipLoss { label_smoothing: 0.0 }.forward(&inputs).unwrap();
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
