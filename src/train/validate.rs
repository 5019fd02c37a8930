//! Validation during training: figures, the best model, and what is kept to be looked at.

use anyhow::{Context, Result};

use super::best_metric::validation_labels;
use super::records::BestStep;
use super::skipped::leave_out;
use super::trainer::Trainer;
use crate::data::Row;
use crate::dist::Collective;
use crate::eval::{LabelledPrompts, Pictures, RetrievalOptions, RowObjective, Validation, ValidationOptions, validate};
use crate::model::freeze::FreezeDepth;
use crate::model::{Builder, ClipModel};
use crate::session::{Encoder, Frozen};
use crate::track::{ComparedFigure, Event, Note};

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
    /// written already and knows nothing of them: when the run goes on, they are cut off from metrics.jsonl, and it is
    /// the run that never paused. TensorBoard's events are only appended to: there they stay.
    ///
    /// The best of all goes to model/ with its pictures, also where none was before; the run that goes on overwrites it
    /// at its own first best.
    pub(super) fn evaluate_at_pause(&mut self) -> Result<()> {
        let known = self.val.is_empty() || self.state.progress.last_eval == Some(self.step_number());
        if known {
            return Ok(());
        }
        let pictures = self.validate()?;
        if self.is_best() {
            self.writer.keep_pictures(true, &pictures)?;
        }
        self.writer.draw_page()
    }

    /// Works out the figures, tells of them, and hands over the best model. Gives what is worth looking at.
    fn validate(&mut self) -> Result<Pictures> {
        let (validation, pictures) = self.figures_of_readable()?;
        let step = self.step_number();
        let metric = self.best_metric;
        let value = validation.value(metric);
        let best = self.state.progress.best.as_ref().map_or(f64::NAN, |best| best.validation.value(metric));
        let is_best = step > 0 && metric.is_better(value, best);
        self.emit(&Event::Eval {
            step,
            figures: serde_json::to_value(&validation)?,
            compared: ComparedFigure { name: metric.word(), value, higher_is_better: metric.higher_is_better() },
            similarities: pictures.similarities.clone(),
            line: line(&validation),
            best: is_best,
        })?;
        if value.is_nan() && !std::mem::replace(&mut self.told_no_figure, true) {
            let text =
                format!("{} of the validation at step {step} is NaN: while it is, no step can be best", metric.word());
            self.emit(&Event::Note(Note::warning(text)))?;
        }
        self.state.progress.last_eval = Some(step);
        if step == 0 {
            self.state.progress.untuned = Some(validation);
        } else if is_best {
            self.folder.summary = self.summary(self.step_number(), Some(&validation));
            self.write_model()?;
            self.state.progress.best = Some(BestStep { step, validation });
            self.state.progress.evals_without_best = 0;
        } else {
            self.state.progress.evals_without_best += 1;
        }
        Ok(pictures)
    }

    /// Whether the step's own validation is the best so far.
    fn is_best(&self) -> bool {
        self.state.progress.best.as_ref().is_some_and(|best| best.step == self.step_number())
    }

    /// The weights as they are evaluated, to encode with.
    pub(super) fn encoder<'a>(&'a self, world: &'a dyn Collective) -> Result<Encoder<'a>> {
        let weights = Builder::eval(self.state.evaluated()).products(self.products);
        Ok(Encoder {
            world,
            model: ClipModel::new(&self.folder.config, &weights)?,
            preprocess: &self.folder.preprocess,
            tokenizer: &self.folder.tokenizer,
            bags: self.folder.bags.evenly(),
            device: &self.device,
            batch_size: self.config.eval.batch_size,
            workers: self.config.data.workers,
            frozen: None,
        })
    }

    /// What is frozen, where what these layers make of the validation's pairs may be kept until the next one.
    fn comes_again(&self) -> Option<&Frozen> {
        let vision = &self.folder.config.vision;
        let depth = self.frozen.image();
        let can_be_cut = depth == FreezeDepth::None || vision.frozen_numbers(depth).is_some();
        (self.config.data.cache_features && can_be_cut).then_some(&self.frozen)
    }

    /// Figures over `rows`, with so many examples to be looked at.
    pub(super) fn figures(&self, encoder: &Encoder, rows: &[Row], gallery: usize) -> Result<(Validation, Pictures)> {
        let config = &self.config.loss;
        let labels = validation_labels(config, rows, self.prompts.as_ref()).ok();
        let (loss, targets) =
            (self.supervision.loss(config, 0.0), self.supervision.targets_of(config, rows, labels.as_ref()));
        let prompts = self.prompts.as_ref().zip(labels.as_ref());
        let options = ValidationOptions {
            objective: (prompts.is_some() || !config.needs_prompts())
                .then_some(RowObjective { loss: &loss, targets: &targets }),
            prompts: prompts.map(|(prompts, labels)| LabelledPrompts { prompts, labels }),
            retrieval: RetrievalOptions {
                bootstrap: self.config.eval.bootstrap,
                loss_batch_size: self.config.samples_per_step(),
                seed: self.config.seed,
            },
            gallery,
        };
        validate(encoder, rows, &options)
    }

    /// Figures over the validation pairs; with `on_error = "skip"`, without those that cannot be read.
    fn figures_of_readable(&mut self) -> Result<(Validation, Pictures)> {
        loop {
            let encoder = Encoder { frozen: self.comes_again(), ..self.encoder(&*self.world)? };
            let error = match self.figures(&encoder, &self.val, self.config.eval.gallery) {
                Ok(figures) => return Ok(figures),
                Err(error) => error,
            };
            let left = leave_out(error, &mut self.val, "val", self.config.data.on_error);
            let (place, skipped) = left.context("validation")?;
            self.note_skipped(skipped).context(place)?;
        }
    }
}

/// What a person reads of a validation.
fn line(validation: &Validation) -> String {
    let report = &validation.retrieval;
    let mut line = format!(
        "mean recall {:.1} %, recall@1 image→text {:.1} % (chance {:.1} %), loss {:.3} (chance {:.3})",
        100.0 * report.mean_recall,
        100.0 * report.image_to_text.figures.recall_at_1,
        100.0 * report.image_to_text.chance.recall_at_1,
        report.loss,
        report.loss_chance
    );
    // Of the contrastive objective itself they are one.
    if let Some(own) = validation.objective.filter(|own| (own.loss - report.loss).abs() > 1e-4) {
        line.push_str(&format!(", the objective's own loss {:.3} (chance {:.3})", own.loss, own.chance));
    }
    for (name, value, chance) in validation.zero_shot_shown() {
        line.push_str(&format!(", zero-shot {name} {:.1} % (chance {:.1} %)", 100.0 * value, 100.0 * chance));
    }
    line
}
