//! Figures of a model on a split: encoding it, retrieval over it, zero-shot classification, calibration.

mod calibration;
mod encode;
mod explain;
mod figures;
mod paired;
mod pictures;
mod probe;
mod retrieval;
mod zero_shot;

pub use calibration::{Calibration, CalibrationReport, Scored};
pub use encode::{Embeddings, Encoder, UnreadableImage};
pub use explain::{Explanation, explain};
pub use figures::{Figure, Finding, Subgroup, ZeroShotOptions, ZeroShotReport};
pub use paired::retrieval_difference;
pub use pictures::{Example, Found, Pictures};
pub use probe::{ProbeReport, linear_probe};
pub use retrieval::{DirectionFigures, LabelFigures, RetrievalOptions, RetrievalReport, evaluate, evaluate_and_draw};
pub use zero_shot::{Scores, class_directions, score};
