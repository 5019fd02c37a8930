//! Training: from a resolved config to a run folder with the best model in it.

mod checkpoint;
mod plan;
mod prepare;
mod records;
mod step;
pub mod stop;
mod trainer;

pub use plan::{Plan, plan};
pub use prepare::{Prepared, open_pretrained, prepare};
pub use step::{StepOutput, train_step};
pub use trainer::{Outcome, Resume, train};
