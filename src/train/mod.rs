//! Training: from a resolved config to a run folder with the best model in it.

mod all_reduce;
mod checkpoint;
mod fingerprint;
mod hand_over;
mod handshake;
mod image_features;
mod leaks;
mod log;
mod order;
mod plan;
mod prepare;
mod prompt_tokens;
mod records;
mod run;
mod run_writer;
mod setup;
mod skipped;
mod state;
mod step;
pub mod stop;
mod summary;
mod supervision;
mod thaw;
mod trainer;
mod validate;

pub use plan::{Plan, plan};
pub use prepare::{Prepared, prepare};
pub use run::{Outcome, Resume, train};
pub use setup::products;
pub use step::TrainStep;
pub use supervision::Supervision;
