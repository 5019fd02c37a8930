//! Which rows each training step holds, and in what order.

mod duplicates;
mod facts;
mod sampler;

pub use sampler::{Sampler, Sampling, StepShape};
