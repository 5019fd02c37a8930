//! Multinomial logistic regression, for linear probes: scikit-learn's objective and its default regularisation.

use super::calibration::softmax;

/// Weights of each class, (classes, width + 1), the intercept last.
#[derive(Clone, Debug)]
pub struct Logistic {
    weights: Vec<Vec<f64>>,
}

impl Logistic {
    /// Fits rows `x` of equal length to classes `y` by L-BFGS: Σ −ln p(y) + ‖weights‖² / (2 C), intercepts free. `x` is
    /// not empty.
    pub fn fit(x: &[Vec<f64>], y: &[usize], classes: usize, c: f64) -> Self {
        let width = x[0].len() + 1;
        // Of two classes scikit-learn keeps one vector of weights, which is the difference of our two; it knows only
        // those that there are.
        let present = (0..classes).filter(|k| y.contains(k)).count();
        let c = if classes == 2 || present == 2 { c / 2.0 } else { c };
        let objective = |flat: &[f64]| -> (f64, Vec<f64>) {
            let mut grad: Vec<f64> = flat.to_vec();
            let mut loss = 0.0;
            for k in 0..classes {
                let w = &mut grad[k * width..(k + 1) * width];
                w[width - 1] = 0.0;
                loss += w.iter().map(|w| w * w).sum::<f64>() / (2.0 * c);
                w.iter_mut().for_each(|w| *w /= c);
            }
            for (x, &target) in x.iter().zip(y) {
                let p = softmax(&scores(flat, x, width), 1.0);
                loss -= p[target].max(f64::MIN_POSITIVE).ln();
                for (k, p) in p.iter().enumerate() {
                    let error = p - f64::from(u8::from(k == target));
                    let of_class = &mut grad[k * width..(k + 1) * width];
                    of_class.iter_mut().zip(x.iter().chain([&1.0])).for_each(|(g, x)| *g += error * x);
                }
            }
            (loss, grad)
        };
        let flat = minimise(vec![0.0; classes * width], objective);
        Self { weights: flat.chunks_exact(width).map(<[f64]>::to_vec).collect() }
    }

    /// Weights of each class, (classes, width), and intercepts.
    pub fn into_weights(self) -> (Vec<Vec<f64>>, Vec<f64>) {
        let split = |mut w: Vec<f64>| {
            let intercept = w.pop().unwrap_or_default();
            (w, intercept)
        };
        self.weights.into_iter().map(split).unzip()
    }

    /// Scores of the classes for one row, before the softmax.
    pub fn logits(&self, x: &[f64]) -> Vec<f64> {
        scores(&self.weights.concat(), x, x.len() + 1)
    }
}

fn scores(flat: &[f64], x: &[f64], width: usize) -> Vec<f64> {
    let score = |w: &[f64]| w.iter().zip(x.iter().chain([&1.0])).map(|(w, x)| w * x).sum();
    flat.chunks_exact(width).map(score).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// L-BFGS with a halving line search (Nocedal & Wright, algorithm 7.4), for a smooth convex `objective`.
pub(super) fn minimise(mut x: Vec<f64>, objective: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Vec<f64> {
    const HISTORY: usize = 10;
    const STEPS: usize = 1000;
    let (mut loss, mut grad) = objective(&x);
    // Moves and changes of the gradient.
    let mut past: std::collections::VecDeque<(Vec<f64>, Vec<f64>)> = Default::default();
    for _ in 0..STEPS {
        if grad.iter().all(|g| g.abs() < 1e-8) {
            break;
        }
        let mut direction = grad.clone();
        let mut shares = Vec::new();
        for (s, y) in past.iter().rev() {
            let share = dot(s, &direction) / dot(s, y);
            direction.iter_mut().zip(y).for_each(|(d, y)| *d -= share * y);
            shares.push(share);
        }
        let scale = past.back().map_or(1.0 / dot(&grad, &grad).sqrt(), |(s, y)| dot(s, y) / dot(y, y));
        direction.iter_mut().for_each(|d| *d *= scale);
        for ((s, y), share) in past.iter().zip(shares.iter().rev()) {
            let correction = share - dot(y, &direction) / dot(s, y);
            direction.iter_mut().zip(s).for_each(|(d, s)| *d += correction * s);
        }
        let slope = dot(&grad, &direction);
        let step = (0..40).map(|halvings| 0.5f64.powi(halvings)).find_map(|length| {
            let next: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x - length * d).collect();
            let (next_loss, next_grad) = objective(&next);
            (next_loss <= loss - 1e-4 * length * slope).then_some((next, next_loss, next_grad))
        });
        // No lower point can be told from this one.
        let Some((next, next_loss, next_grad)) = step else { break };
        let s: Vec<f64> = next.iter().zip(&x).map(|(a, b)| a - b).collect();
        let y: Vec<f64> = next_grad.iter().zip(&grad).map(|(a, b)| a - b).collect();
        if dot(&s, &y) > 0.0 {
            past.push_back((s, y));
        }
        if past.len() > HISTORY {
            past.pop_front();
        }
        (x, loss, grad) = (next, next_loss, next_grad);
    }
    x
}
