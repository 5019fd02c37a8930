//! Which rows each training step holds, and in what order.

mod sampler;

pub use sampler::{Sampler, Sampling};
