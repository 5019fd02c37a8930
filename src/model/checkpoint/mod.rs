//! Weights on disk: which file formats there are, strict loading, and writing.
//!
//! The only module that knows tensors by other names than the layers'.

mod load;
mod source;

pub use load::{LoadOptions, Loaded, load, random};
pub use source::save_safetensors;
