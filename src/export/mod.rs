//! Models for other programs.

mod hugging_face;

pub use hugging_face::{ModelFolder, write_hugging_face};
