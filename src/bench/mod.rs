//! Measurements of speed and memory on this machine, as `scripts/bench` sets them beside PyTorch's.

mod train_step;

pub use train_step::{TrainStepBench, TrainStepFigures, train_step};
