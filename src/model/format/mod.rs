//! How published towers say what they are: fields of config files, names of tensors, which state stands for the whole.
//! The towers' folders are written in these words; reading and writing files is [`super::checkpoint`]'s.

pub mod json;
pub mod open_clip;
mod pooling;
pub mod rename;
mod tower;

pub use pooling::Pooling;
pub use tower::{Tower, TowerFormat, Unused};
