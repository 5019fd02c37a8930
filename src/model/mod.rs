//! Tensors in, features out: encoders, their weights, and how weights are read and written.
//!
//! Knows no data files and no loss. Layers know one naming of weights, Hugging Face's; only the towers' folders and
//! [`checkpoint`] know others. From the ground up: `params`, `layers`, `format`, the towers in `vision` and `text`,
//! their table in `towers`, the dual encoder in `config` and `clip`, and `checkpoint`.

pub mod checkpoint;
mod clip;
mod config;
mod format;
pub mod freeze;
pub mod graph;
mod graphs;
mod layers;
mod param_spec;
mod params;
mod text;
mod towers;
mod vision;

pub use crate::ops::Activation;
pub use clip::{ClipModel, MAX_LOGIT_SCALE};
pub use config::{ClipConfig, LOGIT_SCALE_INIT};
pub use layers::bag_pool::{BagPooling, BagPoolingKind, BagPoolingRequest, BagPosition};
pub use layers::lora;
pub use layers::noise::Noise;
pub use layers::projection::Projection;
pub use params::{Builder, Depth, Init, Param, ParamSpec, Params, Part};
pub use text::tower::{CloneTextConfig, TextConfig, TextTower};
pub use vision::tower::{CloneVisionConfig, LearntPositions, PatchRows, VisionConfig, VisionTower};
