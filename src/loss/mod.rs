//! Objectives. Each takes features and a scale, never a batch or a model.
//!
//! To add one: a file here with its row (what it is called, what it needs, how it is made) and its forward pass, a line
//! in [`OBJECTIVES`], a case in tests/it/objectives.rs, a line in the docs. Nothing else lists objectives.

mod candidates;
mod class;
mod clip;
pub mod cross_entropy;
mod distill;
pub mod explain;
mod false_negatives;
mod likeness;
mod local;
mod local_config;
mod multi_label;
mod multi_positive;
mod objective;
mod prompt_similarity;
mod siglip;
pub mod smoothing;
mod soft_targets;
mod sum;
mod table;
mod targets;
mod teacher_rows;
mod vectors;

pub use class::{ClassLoss, ClassWeights};
pub use clip::ClipLoss;
pub use cross_entropy::{CrossEntropy, Reduction, Targets, cross_entropy};
pub use distill::DistillLoss;
pub use false_negatives::FalseNegatives;
pub use likeness::{Drawing, Likeness, Positives, RowFacts, likeness_of_negatives, likeness_of_training};
pub use local::LocalLoss;
pub use local_config::{LocalConfig, LocalForm};
pub use multi_label::MultiLabelLoss;
pub use multi_positive::MultiPositiveLoss;
pub use objective::{
    Direction, Inputs, LocalFeatures, Needs, Objective, ObjectiveKind, Opposed, PromptFeatures, Settings, Takes,
    TargetKind, Term,
};
pub use siglip::SiglipLoss;
pub use sum::{Loss, LossOutput};
pub use table::{OBJECTIVE_NAMES, OBJECTIVES, OBJECTIVES_HELP, find};
pub use targets::{PairTargets, RowTargets};
pub use teacher_rows::TeacherRows;
pub use vectors::Vectors;
