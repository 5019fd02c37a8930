//! Training: from a resolved config to a run folder with the best model in it.

mod all_reduce;
mod checkpoint;
mod dry_run;
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
mod resume;
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

pub use dry_run::{FirstStep, try_first_step};
pub use plan::{Plan, plan};
pub use prepare::{Prepared, prepare};
pub use resume::{Resume, check_same_config, find_run};
pub use run::{Outcome, train};
pub use setup::products;
pub use step::TrainStep;
pub use supervision::Supervision;
