//! Models for other programs.

mod card;
mod folder;

pub use folder::{ModelFolder, REPORT_FILE, write_model};
