//! What the loop tells of each step.

use anyhow::Result;

use super::trainer::Trainer;
use crate::loss::LossOutput;
use crate::track::{Event, Note, StepRecord};

impl Trainer<'_> {
    /// Tells of the step that was just done.
    pub(super) fn log(&mut self, loss: &LossOutput, logit_scale: f64, grad_norm: f64, lr_factor: f64) -> Result<()> {
        let record = StepRecord {
            step: self.state.progress.step,
            samples: self.state.progress.step * self.config.samples_per_step() as u64,
            loss: loss.value,
            loss_hard: loss.loss_hard,
            loss_excess: loss.loss_excess,
            chance: loss.chance,
            batch_accuracy: loss.accuracy,
            logit_scale,
            grad_norm,
            lr_factor,
            lr: lr_factor * self.config.optim.lr_heads(),
        };
        self.emit(&Event::Step(record))?;
        let warning = self.chance.warning(&record, &self.config.loss.held_against());
        warning.map_or(Ok(()), |text| self.emit(&Event::Note(Note::warning(text))))
    }

    pub(super) fn log_time(&mut self, pairs: usize, seconds: f64, waiting: f64) -> Result<()> {
        let samples_per_s = pairs as f64 / seconds.max(1e-9);
        self.emit(&Event::Timing { step: self.state.progress.step, seconds, waiting, samples_per_s })
    }
}
