//! Vector scaling: a factor and an offset for each class (Guo et al., arXiv 1706.04599).

use super::calibration::softmax;
use super::logistic::minimise;

/// Logits z become factor · z + offset, class by class.
#[derive(Clone, Debug, PartialEq)]
pub struct VectorScaling {
    factors: Vec<f64>,
    offsets: Vec<f64>,
}

impl VectorScaling {
    /// What makes Σ −ln of the targets' probabilities + ½ ‖what is changed‖² least, over `rows` of logits over
    /// `classes` with their targets. Without the second term a class that no row has would go to infinity.
    pub fn fit(rows: &[(&[f64], usize)], classes: usize) -> Self {
        let objective = |flat: &[f64]| -> (f64, Vec<f64>) {
            let (factors, offsets) = flat.split_at(classes);
            let mut grad: Vec<f64> = factors.iter().map(|f| f - 1.0).chain(offsets.iter().copied()).collect();
            let mut loss = grad.iter().map(|g| g * g).sum::<f64>() / 2.0;
            for (z, target) in rows {
                let p = softmax(&scaled(factors, offsets, z), 1.0);
                loss -= p[*target].max(f64::MIN_POSITIVE).ln();
                for (k, p) in p.iter().enumerate() {
                    let error = p - f64::from(u8::from(k == *target));
                    grad[k] += error * z[k];
                    grad[classes + k] += error;
                }
            }
            (loss, grad)
        };
        let flat = minimise([vec![1.0; classes], vec![0.0; classes]].concat(), objective);
        Self { factors: flat[..classes].to_vec(), offsets: flat[classes..].to_vec() }
    }

    /// Logits as they become.
    pub fn apply(&self, logits: &[f64]) -> Vec<f64> {
        scaled(&self.factors, &self.offsets, logits)
    }
}

fn scaled(factors: &[f64], offsets: &[f64], logits: &[f64]) -> Vec<f64> {
    logits.iter().zip(factors).zip(offsets).map(|((z, f), o)| f * z + o).collect()
}
