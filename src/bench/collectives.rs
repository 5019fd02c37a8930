//! What processes that train as one wait for.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::Spread;
use crate::dist::Collective;

/// Of one size.
#[derive(Clone, Debug, Serialize)]
pub struct CollectiveFigures {
    /// MiB that each rank gives.
    pub mib: f64,
    /// Seconds until each rank has what all give.
    pub gather_s: Spread,
    /// Seconds until each rank has the sum.
    pub sum_s: Spread,
}

/// Times gathers and sums of the given sizes.
///
/// # Errors
/// A rank is lost.
pub fn collectives(world: &dyn Collective, mib: &[f64], rounds: usize) -> Result<Vec<CollectiveFigures>> {
    let of_size = |&mib: &f64| {
        let count = ((mib * f64::from(1 << 18)) as usize).max(1);
        let numbers = Tensor::ones(count, DType::F32, &Device::Cpu)?;
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (kind, times) in times.iter_mut().enumerate() {
                world.gather_bytes(&[])?;
                let started = Instant::now();
                match kind {
                    0 => drop(world.gather_rows(&numbers.reshape((count, 1))?)?),
                    _ => drop(world.begin_sum(numbers.clone())?.wait()?),
                }
                if round > 0 {
                    times.push(started.elapsed().as_secs_f64());
                }
            }
        }
        let [gather_s, sum_s] = times.map(|times| Spread::of(&times));
        Ok(CollectiveFigures { mib, gather_s, sum_s })
    };
    mib.iter().map(of_size).collect()
}
