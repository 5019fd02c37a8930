//! Tensors in, features out: encoders, their weights, and how weights are read and written.
//!
//! Knows no data files and no loss. Layers know one naming of weights, Hugging Face's; only [`checkpoint`] knows others.

mod block;
pub mod checkpoint;
mod clip;
mod config;
pub mod freeze;
mod interpolate;
mod params;
mod text;
mod vision;

pub use clip::{ClipModel, MAX_LOGIT_SCALE};
pub use config::{Activation, ClipConfig, EosRule, TextConfig, VisionConfig};
pub use params::{Builder, Depth, Init, Param, ParamSpec, Params, Part};
