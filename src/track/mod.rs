//! What a run says about itself: events, and the sinks that draw or store them. Knows no tensor.

mod config;
mod counted;
mod event;
mod figures;
mod jsonl;
pub mod mlflow;
mod note;
mod progress;
mod run_folder;
mod tensorboard;

pub use config::TrackConfig;
pub use counted::Counted;
pub use event::{ComparedFigure, Ending, Event, Sink, StepRecord};
pub use jsonl::{JsonlSink, Lengths};
pub use mlflow::{About, MlflowSink};
pub use note::{Level, Note};
pub use progress::ProgressSink;
pub use run_folder::RunFolder;
pub use tensorboard::TensorboardSink;
