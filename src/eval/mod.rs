//! Figures of a model on a split: encoding it, and retrieval over it.

mod encode;
mod retrieval;

pub use encode::{Embeddings, UnreadableImage, embed_images, embed_texts};
pub use retrieval::{DirectionFigures, RetrievalReport, evaluate, retrieval_report};
