//! Training: from a resolved config to a run folder with the best model in it.

mod all_reduce;
mod books;
mod checkpoint;
mod fingerprint;
mod handshake;
mod keep_features;
mod leaks;
mod plan;
mod prepare;
mod records;
mod setup;
mod step;
pub mod stop;
mod summary;
mod supervision;
mod thaw;
mod trainer;
mod validate;

pub use plan::{Plan, plan};
pub use prepare::{Prepared, prepare};
pub use setup::{loss_of, products};
pub use step::TrainStep;
pub use supervision::Supervision;
pub use trainer::{Outcome, Resume, train};
