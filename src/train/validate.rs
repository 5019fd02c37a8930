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
        let step = self.state.step;
        let due = step.is_multiple_of(self.plan.eval_every) || step == self.plan.total_steps;
        due && self.state.last_eval != Some(step) && !self.val.is_empty()
    }

    pub(super) fn evaluate(&mut self) -> Result<()> {
        let (report, pictures) = self.evaluate_readable()?;
        let step = self.state.step;
        let by_recall = self.config.train.best_metric == BestMetric::MeanRecall;
        let better = |best: &RetrievalReport| match by_recall {
            true => report.mean_recall > best.mean_recall,
            false => report.loss < best.loss,
        };
        let best = step > 0 && self.state.best.as_ref().is_none_or(|(_, best)| better(best));
        let line = format!(
            "mean recall {:.1} %, recall@1 image→text {:.1} % (chance {:.1} %), loss {:.3} (chance {:.3})",
            100.0 * report.mean_recall,
            100.0 * report.image_to_text.figures.recall_at_1,
            100.0 * report.image_to_text.chance.recall_at_1,
            report.loss,
            report.loss_chance
        );
        if step == 0 || best {
            self.books.keep_pictures(step > 0, &pictures)?;
        }
        self.emit(&Event::Eval {
            step,
            figures: serde_json::to_value(&report)?,
            similarities: pictures.similarities,
            line,
            best,
        })?;
        self.state.last_eval = Some(step);
        match (step, best) {
            (0, _) => self.state.untuned = Some(report),
            (_, true) => {
                self.folder.summary = self.summary(Some(&report));
                self.write_model()?;
                self.state.best = Some((step, report));
                self.state.evals_without_best = 0;
            }
            _ => self.state.evals_without_best += 1,
        }
        self.unsaved = true;
        self.books.draw_page()?;
        // A validation's outcome is worth a checkpoint: without one, a kill would forget which model is the best.
        if step > 0 { self.save() } else { Ok(()) }
    }

    /// Figures over the validation pairs; with `on_error = "skip"`, without those that cannot be read.
    fn evaluate_readable(&mut self) -> Result<(RetrievalReport, Pictures)> {
        loop {
            let model = ClipModel::new(&self.folder.config, &Builder::eval(self.judged()))?;
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
