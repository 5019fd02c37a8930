//! Which rows each training step holds, and in what order.

mod duplicates;
mod facts;
mod neighbours;
mod sampler;

pub use neighbours::{NO_ROW, Neighbours};
pub use sampler::{Sampler, Sampling, StepShape};
