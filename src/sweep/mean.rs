//! Means over seeds.

use serde::Serialize;

use crate::metrics::students_t::t_975;

/// A mean over seeds with its 95 % interval by Student's t; no interval for a single seed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval.
    pub half_width: Option<f64>,
    /// Seeds.
    pub seeds: usize,
}

impl Mean {
    /// Of one figure's values; `None` without any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let half_width = (n > 1).then(|| t_975((n - 1) as f64) * (squares / (n - 1) as f64 / n as f64).sqrt());
        (n > 0).then_some(Self { mean, half_width, seeds: n })
    }
}
