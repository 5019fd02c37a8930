//! What a handful of values says of the mean of all that there could be: Student's t. Values that are drawn again from
//! a handful vary far less than new ones would.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, StudentsT};

/// Not of none.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Sum of squares / (n − 1).
pub(super) fn variance(values: &[f64]) -> f64 {
    let middle = mean(values);
    values.iter().map(|v| (v - middle).powi(2)).sum::<f64>() / (values.len() - 1) as f64
}

/// Of so many degrees of freedom, which are above 0.
pub(super) fn students_t(freedom: f64) -> Option<StudentsT> {
    StudentsT::new(0.0, 1.0, freedom).ok()
}

/// The 97.5 % point, with this many degrees of freedom; infinite where there are none.
pub fn t_975(freedom: f64) -> f64 {
    students_t(freedom).map_or(f64::INFINITY, |t| t.inverse_cdf(0.975))
}

/// A draw from it.
pub(super) fn drawn(of: &StudentsT, rng: &mut ChaCha8Rng) -> f64 {
    // Neither 0 nor 1, at which it is infinite.
    let share = (rng.random::<f64>() + f64::EPSILON) / (1.0 + 2.0 * f64::EPSILON);
    of.inverse_cdf(share)
}

/// A 95 % interval of the mean that `values` are a sample of; `None` below two of them, or where one is not finite.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 || !values.iter().all(|v| v.is_finite()) {
        return None;
    }
    let error = (variance(values) / values.len() as f64).sqrt();
    let half = error * t_975(values.len() as f64 - 1.0);
    Some((mean(values) - half, mean(values) + half))
}
