//! Objectives. A loss takes features and a scale (or logits), never a batch or a model.
//!
//! To add one: a file here, a variant in [`crate::config::LossKind`], an arm where the step builds the loss.

pub mod clip;
pub mod cross_entropy;
pub mod explain;
pub mod smoothing;

pub use crate::config::Direction;
pub use clip::{ClipLoss, ClipLossOutput};
pub use cross_entropy::{CrossEntropy, Reduction, Targets, cross_entropy};
