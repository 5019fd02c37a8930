//! Figures from plain numbers. Pure: no tensors, no files, no randomness that is not handed in.

pub mod bootstrap;
pub mod calibration;
pub mod classification;
pub mod conformal;
pub mod counted;
pub mod few_shot;
pub mod grounding;
pub mod hierarchical;
pub mod logistic;
mod metric;
pub mod ranking;
pub mod retrieval;
pub mod seeds;
pub mod selective;
pub mod students_t;
pub mod vector_scaling;

pub use metric::Metric;
pub use retrieval::{Query, Retrieval, rank_of_best, summarise};
