//! Measurements of speed and memory on this machine, as `scripts/bench` sets them beside PyTorch's.

mod collectives;
mod data;
mod encode;
mod loader;
mod matmul;
pub mod parity;
mod train_step;
mod volumes;

use serde::Serialize;

pub use collectives::{CollectiveFigures, collectives};
pub use data::{DataBench, DataFigures, data};
pub use encode::{EncodeFigures, encode};
pub use loader::{LoaderBench, LoaderFigures, loader};
pub use matmul::{KernelFigures, matmul_gflops, matmul_kernels};
pub use train_step::{GpuFigures, PartFigures, TrainStepBench, TrainStepFigures, read_lengths, train_step};
pub use volumes::{VolumesBench, VolumesFigures, volumes};

/// Lowest, middle and highest of several measurements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Lowest.
    pub min: f64,
    /// Middle; the mean of the middle two where there are as many on both sides.
    pub median: f64,
    /// Highest.
    pub max: f64,
}

impl Spread {
    /// Of one measurement at least.
    fn of(measured: &[f64]) -> Self {
        let mut sorted = measured.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (n, middle) = (sorted.len(), sorted.len() / 2);
        let median = if n % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { min: sorted[0], median, max: sorted[n - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn spreads() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of(&[3.0, 1.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of(&[5.0]), Spread { min: 5.0, median: 5.0, max: 5.0 });
    }
}
