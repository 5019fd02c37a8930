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
            loss: f64::from(loss.loss.to_scalar::<f32>()?),
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
        self.warn_at_chance(&record)
    }

    /// Other tools train on at ln N for days without a word.
    fn warn_at_chance(&mut self, record: &StepRecord) -> Result<()> {
        const STEPS: u64 = 50;
        let at_chance = (record.loss_hard - record.chance).abs() < 0.02 * record.chance;
        self.steps_at_chance = if at_chance { self.steps_at_chance + 1 } else { 0 };
        if self.steps_at_chance == STEPS {
            let text = format!(
                "for {STEPS} steps the loss has stood at ln {} = {:.3}, as if images and reports had nothing to do with \
                 each other; usual causes: a learning rate too low or too high (now {:.1e}), frozen towers, a batch too \
                 small, reports that are all alike, or rows whose image and report do not belong together",
                self.config.samples_per_step(),
                record.chance,
                record.lr
            );
            self.emit(&Event::Note(Note::warning(text)))?;
        }
        Ok(())
    }

    pub(super) fn log_time(&mut self, pairs: usize, seconds: f64, waiting: f64) -> Result<()> {
        let samples_per_s = pairs as f64 / seconds.max(1e-9);
        self.emit(&Event::Timing { step: self.state.progress.step, seconds, waiting, samples_per_s })
    }
}
