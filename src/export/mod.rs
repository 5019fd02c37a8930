//! Models for other programs.

mod card;
mod folder;

pub use folder::{ModelFolder, write_model};
