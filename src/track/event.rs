//! Events of a training run.

use serde::Serialize;
use serde_json::Value;

use super::note::Note;

/// One optimizer step. Every number is reproducible; time is apart, in [`Event::Timing`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepRecord {
    /// Steps done, this one included.
    pub step: u64,
    /// Pairs drawn, this step's included; those that could not be read count.
    pub samples: u64,
    /// The smoothed loss that is trained.
    pub loss: f64,
    /// The same without smoothing.
    pub loss_hard: f64,
    /// `loss` minus the floor that smoothing sets.
    pub loss_excess: f64,
    /// Loss of a model that knows nothing.
    pub chance: f64,
    /// Share of pairs found within the batch.
    pub batch_accuracy: f64,
    /// `logit_scale` (the logarithm) before the update.
    pub logit_scale: f64,
    /// Norm of the whole gradient before clipping.
    pub grad_norm: f64,
    /// Share of the full learning rate.
    pub lr_factor: f64,
    /// Learning rate of the heads (towers have their own full rate times `lr_factor`).
    pub lr: f64,
}

/// The figure by which validations are compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ComparedFigure {
    /// As `train.best_metric` has it.
    pub name: &'static str,
    /// NaN (null in JSON) where it does not exist.
    pub value: f64,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Training goes from `step` to `total`.
    Start {
        /// Steps done before.
        step: u64,
        /// Steps in all.
        total: u64,
    },
    /// A step was done.
    Step(StepRecord),
    /// How long it took; not reproducible, so not in metrics.jsonl.
    Timing {
        /// Steps done.
        step: u64,
        /// Seconds of this step, waiting for data included.
        seconds: f64,
        /// Seconds of it spent waiting for data.
        waiting: f64,
        /// Pairs a second.
        samples_per_s: f64,
    },
    /// A validation: where, its figures as JSON, one line for people.
    Eval {
        /// Steps done.
        step: u64,
        /// Cosines of some images with each of their reports.
        similarities: Vec<Vec<f32>>,
        /// Figures.
        figures: Value,
        /// The one that says which validation is the best.
        compared: ComparedFigure,
        /// One line.
        line: String,
        /// Whether it is the best so far.
        best: bool,
    },
    /// Rows that could not be read; only their lines are told.
    Skipped {
        /// "train" or "val".
        manifest: String,
        /// Lines of the manifest, each with the kind of fault.
        lines: Vec<(u64, Option<String>)>,
        /// Skipped so far.
        total: usize,
        /// How many of these have images of transfer syntaxes that are not read, and of which, in words.
        unread: Option<String>,
    },
    /// A line to tell once.
    Note(Note),
    /// What frozen layers make of images or reports is worked out.
    Preparing {
        /// "image features", "features of reports" or "features of sentences".
        what: &'static str,
        /// Rows done.
        done: usize,
        /// Rows to do.
        total: usize,
    },
    /// Figures of the split that chose nothing, of the model that was handed over.
    Test {
        /// Steps done.
        step: u64,
        /// Figures.
        figures: Value,
    },
    /// Training ended.
    End(Ending),
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// At its end, or early as the config says.
    Done,
    /// Before it, to be gone on with.
    Stopped,
    /// By an error.
    Failed,
}

/// Draws or stores events.
pub trait Sink {
    /// Takes one event.
    ///
    /// # Errors
    /// It could not be stored, for example because the disk is full.
    fn on(&mut self, event: &Event) -> anyhow::Result<()>;
}
