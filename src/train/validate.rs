//! Validation during training: figures, the best model, and what is kept to be looked at.

use anyhow::{Context, Result};

use super::records::SkippedRow;
use super::trainer::Trainer;
use crate::config::BestMetric;
use crate::data::{OnError, Row};
use crate::eval::{Pictures, RetrievalOptions, RetrievalReport, evaluate_and_draw};
use crate::model::{Builder, ClipModel};
use crate::session::{Encoder, UnreadableImage};
use crate::track::Event;

impl Trainer<'_> {
    pub(super) fn eval_is_due(&self) -> bool {
        let step = self.step_number();
        let due = step.is_multiple_of(self.plan.eval_every) || step == self.plan.total_steps;
        due && self.state.progress.last_eval != Some(step) && !self.val.is_empty()
    }

    /// A validation that is due, with a checkpoint: without one, a kill would forget which model is the best.
    pub(super) fn evaluate(&mut self) -> Result<()> {
        let pictures = self.validate()?;
        if self.step_number() == 0 || self.is_best() {
            self.writer.keep_pictures(self.step_number() > 0, &pictures)?;
        }
        self.writer.draw_page()?;
        self.unsaved = true;
        if self.step_number() > 0 { self.save() } else { Ok(()) }
    }

    /// Figures of a run that pauses between two validations, so that it can be held against others. The checkpoint is
    /// written already and knows nothing of them: when the run goes on, they are cut off, and it is the run that never
    /// paused.
    pub(super) fn evaluate_at_pause(&mut self) -> Result<()> {
        let known = self.val.is_empty() || self.state.progress.last_eval == Some(self.step_number());
        if known {
            return Ok(());
        }
        self.validate()?;
        self.writer.draw_page()
    }

    /// Works out the figures, tells of them, and hands over the best model. Gives what is worth looking at.
    fn validate(&mut self) -> Result<Pictures> {
        let (report, pictures) = self.evaluate_readable()?;
        let step = self.step_number();
        let by_recall = self.config.train.best_metric == BestMetric::MeanRecall;
        let better = |best: &RetrievalReport| {
            if by_recall { report.mean_recall > best.mean_recall } else { report.loss < best.loss }
        };
        let best = step > 0 && self.state.progress.best.as_ref().is_none_or(|(_, best)| better(best));
        let line = format!(
            "mean recall {:.1} %, recall@1 image→text {:.1} % (chance {:.1} %), loss {:.3} (chance {:.3})",
            100.0 * report.mean_recall,
            100.0 * report.image_to_text.figures.recall_at_1,
            100.0 * report.image_to_text.chance.recall_at_1,
            report.loss,
            report.loss_chance
        );
        self.emit(&Event::Eval {
            step,
            figures: serde_json::to_value(&report)?,
            similarities: pictures.similarities.clone(),
            line,
            best,
        })?;
        self.state.progress.last_eval = Some(step);
        if step == 0 {
            self.state.progress.untuned = Some(report);
        } else if best {
            self.folder.summary = self.summary(Some(&report));
            self.write_model()?;
            self.state.progress.best = Some((step, report));
            self.state.progress.evals_without_best = 0;
        } else {
            self.state.progress.evals_without_best += 1;
        }
        Ok(pictures)
    }

    /// Whether the step's own validation is the best so far.
    fn is_best(&self) -> bool {
        self.state.progress.best.as_ref().is_some_and(|(step, _)| *step == self.step_number())
    }

    /// Figures over the validation pairs; with `on_error = "skip"`, without those that cannot be read.
    fn evaluate_readable(&mut self) -> Result<(RetrievalReport, Pictures)> {
        loop {
            let model = ClipModel::new(&self.folder.config, &Builder::eval(self.state.evaluated()))?;
            let encoder = Encoder {
                world: &*self.world,
                model,
                preprocess: &self.folder.preprocess,
                tokenizer: &self.folder.tokenizer,
                device: &self.device,
                batch_size: self.config.eval.batch_size,
                workers: self.config.data.workers,
            };
            let options = RetrievalOptions {
                bootstrap: self.config.eval.bootstrap,
                loss_batch_size: self.config.samples_per_step(),
                seed: self.config.seed,
            };
            let result = evaluate_and_draw(&encoder, &self.val, &options, self.config.eval.gallery);
            let error = match result {
                Ok(report) => return Ok(report),
                Err(e) => e,
            };
            let bad = error.downcast_ref::<UnreadableImage>().map(|e| e.image.clone());
            let rows: Vec<&Row> = self.val.iter().filter(|r| Some(r.image()) == bad).collect();
            let Some(first) = rows.first() else { return Err(error.context("validation")) };
            let place = first.place();
            let skip = self.config.data.on_error == OnError::Skip && rows.len() < self.val.len();
            if !skip {
                return Err(error.context(place));
            }
            let skipped = rows.iter().map(|r| SkippedRow::new("val", r.origin().number, r.line)).collect();
            self.val.retain(|r| Some(r.image()) != bad);
            self.note_skipped(skipped).context(place)?;
        }
    }
}
