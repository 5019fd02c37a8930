//! Models for other programs.

mod adapter;
mod bag_card;
mod card;
mod folder;
pub mod onnx;

pub use adapter::{AdapterOptions, write_adapter};
pub use folder::write_model;
