//! A run in progress: what the loop works with. Knows neither the loop, which is in `run`, nor what the loop calls,
//! which stands beside it by concern: `validate`, `fill`, `image_features`, `kept_texts`, `hand_over`, `skipped`,
//! `log`.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{DType, Device};

use super::all_reduce::check_same_weights;
use super::chance::ChanceWatch;
use super::plan::Plan;
use super::run_writer::RunWriter;
use super::state::State;
use super::stop::Stopped;
use super::supervision::Supervision;
use crate::config::Config;
use crate::data::{Dataset, KeptTexts, Prompts, Row};
use crate::dist::Collective;
use crate::metrics::Metric;
use crate::session::{Frozen, ModelFolder};
use crate::track::Event;

pub(super) struct Trainer<'a> {
    pub world: Rc<dyn Collective>,
    pub config: &'a Config,
    pub plan: Plan,
    pub supervision: Supervision,
    pub state: State,
    /// What is frozen at the state's step, with what is kept of it.
    pub frozen: Frozen,
    /// What a frozen text tower makes of each sentence of the training reports, where that is kept.
    pub sentences: Option<KeptTexts>,
    /// The step of the last whole checkpoint.
    pub saved_at: Option<u64>,
    /// Something happened since.
    pub unsaved: bool,
    pub chance: ChanceWatch,
    pub train: Arc<Dataset>,
    pub val: Vec<Row>,
    /// Pairs that are judged in the end and choose nothing.
    pub test: Vec<Row>,
    /// Digest of what the training images hold.
    pub train_images: String,
    /// For figures of validations.
    pub prompts: Option<Prompts>,
    /// By which validations are compared.
    pub best_metric: Metric,
    /// Whether it was told that a validation had no such figure.
    pub told_no_figure: bool,
    pub folder: ModelFolder,
    pub device: Device,
    /// In which type products are worked out.
    pub products: DType,
    pub writer: RunWriter,
}

impl Trainer<'_> {
    pub(super) fn emit(&mut self, event: &Event) -> Result<()> {
        self.writer.emit(event)
    }

    /// Steps done.
    pub(super) fn step_number(&self) -> u64 {
        self.state.progress.step
    }

    /// How often each row is seen.
    pub(super) fn epochs(&self) -> f64 {
        self.plan.total_steps as f64 / self.plan.steps_per_epoch.max(1) as f64
    }

    /// Works out what frozen layers make of images and reports, where that is kept. Returns why training shall not
    /// begin, if it shall not.
    pub(super) fn keep_features(&mut self) -> Result<Option<Stopped>> {
        match self.keep_image_features()? {
            None => self.keep_text_features(),
            stopped => Ok(stopped),
        }
    }

    /// Writes a checkpoint, unless nothing happened since the last.
    pub(super) fn save(&mut self) -> Result<()> {
        if !self.unsaved {
            return Ok(());
        }
        check_same_weights(&*self.world, &self.state.params)?;
        self.writer.save(&mut self.state)?;
        (self.saved_at, self.unsaved) = (Some(self.step_number()), false);
        Ok(())
    }
}
