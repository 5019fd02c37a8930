//! What a run says about itself: events, and the sinks that draw or store them. Knows no tensor.

mod counted;
mod event;
mod jsonl;
mod note;
mod progress;
mod run_folder;
mod tensorboard;

pub use counted::Counted;
pub use event::{ComparedFigure, Event, Sink, StepRecord};
pub use jsonl::{JsonlSink, Lengths};
pub use note::{Level, Note};
pub use progress::ProgressSink;
pub use run_folder::RunFolder;
pub use tensorboard::TensorboardSink;
