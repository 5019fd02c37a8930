//! Figures of a model on a split: encoding it, and retrieval over it.

mod encode;
mod retrieval;

pub use encode::{Embeddings, Encoder, UnreadableImage};
pub use retrieval::{DirectionFigures, RetrievalOptions, RetrievalReport, evaluate};
