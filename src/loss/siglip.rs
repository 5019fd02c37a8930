//! The pairwise sigmoid loss of SigLIP (arXiv 2303.15343): each image with each report is judged by itself.

use candle_core::{DType, Result, Tensor};

use super::{LossOutput, accuracy};
use crate::ops::reference::l2_normalize;

/// `-Σᵢⱼ log σ(yᵢⱼ · zᵢⱼ) / batch` with `z = scale · similarity + bias`, y = 1 on the diagonal and −1 elsewhere.
///
/// # Errors
/// Shapes that do not fit.
pub(super) fn forward(image: &Tensor, text: &Tensor, scale: &Tensor, bias: &Tensor) -> Result<LossOutput> {
    let sims = l2_normalize(image)?.matmul(&l2_normalize(text)?.t()?)?; // (batch, batch)
    let z = sims.broadcast_mul(scale)?.broadcast_add(bias)?;
    let batch = z.dim(0)?;
    let own = Tensor::eye(batch, z.dtype(), z.device())?;
    let signed = (&z * ((own * 2.0)? - 1.0)?)?;
    // -log σ(x) = max(-x, 0) + log(1 + exp(-|x|)): no exponential grows.
    let loss = ((signed.neg()?.relu()? + (signed.abs()?.neg()?.exp()? + 1.0)?.log()?)?.sum_all()? / batch as f64)?;
    let value = loss.to_dtype(DType::F64)?.to_scalar::<f64>()?;
    let (accuracy, n) = (accuracy(&sims.detach())?, batch as f64);
    // What the best single answer to all pairs costs: each is one's own with probability 1/n.
    let chance = if batch > 1 { n.ln() + (n - 1.0) * (n / (n - 1.0)).ln() } else { 0.0 };
    Ok(LossOutput { loss, loss_hard: value, loss_excess: value, chance, accuracy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// The formula once more in f64; the gradients are compared with torch's in tests/encoders.rs.
    #[test]
    fn agrees_with_logsigmoid_and_stays_finite() {
        let row = |x: f32| [x, (1.0 - x * x).sqrt()];
        let image = Tensor::new(&[row(1.0), row(0.0)], &Device::Cpu).unwrap();
        let text = Tensor::new(&[row(0.5), row(-0.5)], &Device::Cpu).unwrap();
        for (scale, bias) in [(10.0f32, -2.0f32), (1000.0, 0.0), (0.0, 0.0)] {
            let (scale, bias) = (Var::new(scale, &Device::Cpu).unwrap(), Var::new(bias, &Device::Cpu).unwrap());
            let output = forward(&image, &text, &scale, &bias).unwrap();
            let (s, b) = (scale.to_scalar::<f32>().unwrap() as f64, bias.to_scalar::<f32>().unwrap() as f64);
            let root = 0.75f64.sqrt();
            let z = [[0.5 * s + b, -0.5 * s + b], [root * s + b, root * s + b]];
            let softplus = |x: f64| if x > 30.0 { x } else { x.exp().ln_1p() };
            let expected = (softplus(-z[0][0]) + softplus(z[0][1]) + softplus(z[1][0]) + softplus(-z[1][1])) / 2.0;
            assert!((output.loss_hard - expected).abs() <= 1e-5 * expected.max(1.0), "{} {expected}", output.loss_hard);
            let grads = output.loss.backward().unwrap();
            for var in [&scale, &bias] {
                assert!(grads.get(var).unwrap().to_scalar::<f32>().unwrap().is_finite());
            }
        }
    }
}
