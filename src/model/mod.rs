//! Tensors in, features out: encoders, their weights, and how weights are read and written.
//!
//! Knows no data files and no loss. Layers know one naming of weights, Hugging Face's; only [`checkpoint`] knows others.

mod block;
pub mod checkpoint;
mod clip;
mod config;
pub mod freeze;
mod interpolate;
pub mod lora;
mod noise;
mod params;
mod projection;
mod text;
mod vision;

pub use clip::{ClipModel, MAX_LOGIT_SCALE};
pub use config::{Activation, ClipConfig, LOGIT_SCALE_INIT, Projection, TextConfig, VisionConfig};
pub use noise::Noise;
pub use params::{Builder, Depth, Init, Param, ParamSpec, Params, Part};
pub use text::{BertConfig, ClipTextConfig, EosRule, TextPool};
pub use vision::{ConvNextConfig, Prefix, ResNetConfig, ResNetPool, SwinConfig, VitConfig, VitPool};
