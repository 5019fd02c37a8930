//! The training loop.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::all_reduce::check_same_weights;
use super::books::Books;
use super::checkpoint;
use super::plan::Plan;
use super::prepare::Prepared;
use super::records::{SkippedRow, TrainState};
use super::setup::{loss_of, products};
use super::step::TrainStep;
use super::stop;
use super::supervision::Supervision;
use super::thaw;
use crate::config::Config;
use crate::data::OnError;
use crate::data::{Batch, Dataset, Prefetch, Row, RowError};
use crate::dist::Collective;
use crate::eval::RetrievalReport;
use crate::export::{AdapterOptions, write_adapter, write_model};
use crate::loss::LossOutput;
use crate::model::{Noise, Params, lora};
use crate::optim::{AdamW, Ema};
use crate::session::ModelFolder;
use crate::track::{Event, RunFolder, StepRecord};

/// Where to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At step 0, in a fresh run folder.
    No,
    /// At this checkpoint; `None` where the run was stopped before its first one.
    From(Option<PathBuf>),
}

/// How it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps done and planned.
    pub steps: (u64, u64),
    /// Why it ended before its last step.
    pub stopped: Option<String>,
    /// Figures before the first step; absent without validation pairs.
    pub untuned: Option<RetrievalReport>,
    /// Step and figures of the best validation after the start.
    pub best: Option<(u64, RetrievalReport)>,
    /// Seconds of this process's part.
    pub seconds: f64,
}

pub(super) struct Trainer<'a> {
    pub(super) world: Rc<dyn Collective>,
    pub(super) config: &'a Config,
    pub(super) plan: Plan,
    pub(super) supervision: Supervision,
    pub(super) params: Params,
    pub(super) optimizer: AdamW,
    pub(super) ema: Option<Ema>,
    pub(super) state: TrainState,
    /// The step of the last whole checkpoint.
    pub(super) saved_at: Option<u64>,
    /// Something happened since.
    pub(super) unsaved: bool,
    pub(super) steps_at_chance: u64,
    pub(super) train: Arc<Dataset>,
    pub(super) val: Vec<Row>,
    pub(super) folder: ModelFolder,
    pub(super) device: candle_core::Device,
    /// Of the first rank.
    pub(super) run_folder: Option<PathBuf>,
    pub(super) books: Books,
}

/// Trains as `config` says, together with the other ranks of `world`, and leaves the best model in the run folder, which
/// the first rank alone is given.
///
/// # Errors
/// A row that cannot be read, a loss or gradient that is not finite, a disk that is full. The last checkpoint stays.
pub fn train(
    config: &Config,
    prepared: Prepared,
    run: Option<RunFolder>,
    resume: &Resume,
    world: Rc<dyn Collective>,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut trainer = Trainer::new(config, prepared, run, resume, world)?;
    let result = trainer.keep_features().and_then(|reason| match reason {
        Some(reason) => Ok(Some(reason)),
        None => trainer.run(),
    });
    trainer.books.draw_page()?;
    trainer.emit(&Event::End)?;
    let stopped = result?;
    Ok(Outcome {
        steps: (trainer.state.step, trainer.plan.total_steps),
        stopped,
        untuned: trainer.state.untuned,
        best: trainer.state.best,
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl Trainer<'_> {
    /// The loop: evaluate, save, stop, forward and backward, step, log. Returns why it ended early.
    fn run(&mut self) -> Result<Option<String>> {
        self.emit(&Event::Start { step: self.state.step, total: self.plan.total_steps })?;
        let mut batches = self.prefetch();
        loop {
            let step = self.state.step;
            if self.eval_is_due() {
                self.evaluate()?;
            }
            let reason = self.reason_to_stop()?;
            let ends = reason.is_some() || step == self.plan.total_steps;
            // Nothing is lost by not saving step 0: starting again gives the same.
            if ends || (step > 0 && step.is_multiple_of(self.plan.checkpoint_every)) {
                self.save()?;
            }
            if ends {
                self.leave_model()?;
                return Ok(reason);
            }
            let started = Instant::now();
            let (chunks, pairs) = self.next_chunks(&mut batches)?;
            let waiting = started.elapsed().as_secs_f64();
            let lr_factor = self.plan.schedule.factor(step);
            let logit_scale = self.logit_scale()?;
            let (loss, grad_norm) = self.step(&chunks, lr_factor).with_context(|| self.failed_step())?;
            self.state.step += 1;
            self.unsaved = true;
            self.log(&loss, logit_scale, grad_norm, lr_factor)?;
            self.log_time(pairs, started.elapsed().as_secs_f64(), waiting)?;
        }
    }

    pub(super) fn emit(&mut self, event: &Event) -> Result<()> {
        self.books.emit(event)
    }

    /// This rank's chunks from the current step on, decoded ahead.
    fn prefetch(&self) -> Prefetch<Result<Batch>> {
        let (end, per_step) = (self.plan.total_steps, self.plan.chunks.len() as u64);
        let (dataset, sampler) = (Arc::clone(&self.train), Arc::clone(&self.plan.sampler));
        let (data, chunks) = (&self.config.data, self.plan.chunks.clone());
        Prefetch::start(self.state.step * per_step, data.workers, data.prefetch, move |index| {
            let (step, places) = (index / per_step, chunks[(index % per_step) as usize].clone());
            let sample = step * sampler.rows_per_step() as u64 + places.start as u64;
            (step < end).then(|| dataset.batch(&sampler.rows(step, places), sample))
        })
    }

    /// This rank's chunks of the next step, and the pairs of all ranks.
    fn next_chunks(&mut self, batches: &mut Prefetch<Result<Batch>>) -> Result<(Vec<Batch>, usize)> {
        let mut chunks = Vec::new();
        let mut errors = Vec::new();
        for _ in 0..self.plan.chunks.len() {
            let mut batch = batches.next().context("a data worker ended unexpectedly")??;
            errors.append(&mut batch.errors);
            chunks.push(batch);
        }
        self.take_errors(&errors)?;
        chunks.retain(|b| b.pairs > 0);
        let own: usize = chunks.iter().map(|b| b.pairs).sum();
        let pairs = self.world.gather_numbers(&[own as u32])?.0.iter().map(|&n| n as usize).sum();
        ensure!(pairs >= 2, "step {}: fewer than 2 of its rows could be read", self.state.step + 1);
        Ok((chunks, pairs))
    }

    /// Rows that this rank could not read; every rank takes note of those of all.
    fn take_errors(&mut self, errors: &[RowError]) -> Result<()> {
        let first = errors.first().map_or(String::new(), |e| format!("{}: {}", e.place, e.reason));
        ensure!(
            errors.is_empty() || self.config.data.on_error == OnError::Skip,
            "{first}; mend it, or set data.on_error = \"skip\""
        );
        let own: Vec<SkippedRow> = errors.iter().map(|e| SkippedRow::new("train", e.file, e.line)).collect();
        let mut rows = Vec::new();
        for told in self.world.gather_bytes(&serde_json::to_vec(&own)?)? {
            rows.extend(serde_json::from_slice::<Vec<SkippedRow>>(&told)?);
        }
        if rows.is_empty() { Ok(()) } else { self.note_skipped(rows).context(first) }
    }

    /// Counts rows that could not be read and tells of those that are new.
    pub(super) fn note_skipped(&mut self, rows: Vec<SkippedRow>) -> Result<()> {
        let new: Vec<SkippedRow> = rows.into_iter().filter(|r| !self.state.skipped.contains(r)).collect();
        self.state.skipped.extend(new.iter().cloned());
        let total = self.state.skipped.len();
        for rows in new.chunk_by(|a, b| a.manifest == b.manifest) {
            let lines = rows.iter().map(|r| r.line).collect();
            self.emit(&Event::Skipped { manifest: rows[0].manifest.clone(), lines, total })?;
        }
        let allowed = self.config.data.max_skipped;
        ensure!(total <= allowed, "that makes {total} rows that cannot be used, and data.max_skipped is {allowed}");
        Ok(())
    }

    fn step(&mut self, chunks: &[Batch], lr_factor: f64) -> Result<(LossOutput, f64)> {
        thaw::apply(self.config, self.plan.thaw, self.state.step, &mut self.params);
        let eps = self.config.loss.label_smoothing.at(self.state.step, self.plan.smoothing_steps);
        let noise = Rc::new(Noise {
            dropout: self.config.train.dropout,
            patch_dropout: self.config.train.patch_dropout,
            adapter_dropout: self.config.lora.dropout,
            seed: self.config.seed,
            step: self.state.step,
            ..Noise::default()
        });
        let step = TrainStep {
            world: &*self.world,
            config: &self.folder.config,
            params: &self.params,
            loss: &loss_of(self.config, &self.supervision, eps),
            supervision: Some(&self.supervision),
            noise: Some(&noise),
            device: &self.device,
            products: products(self.config),
            checkpoint_activations: self.config.train.checkpoint_activations,
            frozen_image: self.config.freeze.image,
        };
        let result = step.run(chunks, &mut self.optimizer, lr_factor)?;
        if let Some(ema) = &self.ema {
            ema.update(&self.params, self.state.step + 1)?;
        }
        Ok(result)
    }

    /// The weights that are evaluated and handed over.
    pub(super) fn judged(&self) -> &Params {
        self.ema.as_ref().map_or(&self.params, Ema::params)
    }

    fn failed_step(&self) -> String {
        let last = match self.saved_at {
            Some(step) => format!("the checkpoint of step {step} is whole"),
            None => "there is no checkpoint yet".into(),
        };
        format!("step {} failed ({last})", self.state.step + 1)
    }

    fn logit_scale(&self) -> Result<f64> {
        let param = self.params.get("logit_scale").context("a CLIP has a logit_scale")?;
        Ok(f64::from(param.var.to_scalar::<f32>()?))
    }

    fn log(&mut self, loss: &LossOutput, logit_scale: f64, grad_norm: f64, lr_factor: f64) -> Result<()> {
        let record = StepRecord {
            step: self.state.step,
            samples: self.state.step * self.config.samples_per_step() as u64,
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
            self.emit(&Event::Warning(text))?;
        }
        Ok(())
    }

    fn log_time(&mut self, pairs: usize, seconds: f64, waiting: f64) -> Result<()> {
        let samples_per_s = pairs as f64 / seconds.max(1e-9);
        self.emit(&Event::Timing { step: self.state.step, seconds, waiting, samples_per_s })
    }

    fn reason_to_stop(&self) -> Result<Option<String>> {
        // Whichever rank was asked: all stop at the same step.
        let asked = self.world.any(stop::asked())?;
        let (step, total) = (self.state.step, self.plan.total_steps);
        let patience = self.config.train.early_stopping;
        Ok(if step == total {
            None
        } else if asked {
            Some(format!("stopped at step {step} of {total}, as asked; go on with --resume latest"))
        } else if self.config.train.stop_after.is_some_and(|n| step >= n) {
            Some(format!("stopped at step {step} of {total}, as train.stop_after says; go on with --resume latest"))
        } else if patience > 0 && self.state.evals_without_best >= patience {
            Some(format!("stopped early at step {step} of {total}: no better validation for {patience} times"))
        } else {
            None
        })
    }

    pub(super) fn save(&mut self) -> Result<()> {
        if !self.unsaved {
            return Ok(());
        }
        check_same_weights(&*self.world, &self.params)?;
        self.books.save(&self.params, &self.optimizer, self.ema.as_ref(), &mut self.state)?;
        (self.saved_at, self.unsaved) = (Some(self.state.step), false);
        Ok(())
    }

    /// After going back to an earlier checkpoint, model/ may hold a later step's weights: puts the best one's back, as
    /// far as its checkpoint is still there.
    pub(super) fn restore_best(&mut self) -> Result<()> {
        let Some((step, report)) = self.state.best.clone() else { return Ok(()) };
        self.folder.summary = self.summary(Some(&report));
        let file = if self.ema.is_some() { checkpoint::EMA_FILE } else { "model.safetensors" };
        let path = self.run_folder.as_ref().map(|run| RunFolder::open(run)).transpose()?;
        let path = path.map(|run| run.checkpoint_path(step).join(file));
        if !self.world.from_first(|| Ok(path.as_ref().is_some_and(|path| path.is_file())))? {
            self.state.best = None;
            return self.emit(&Event::Warning(format!(
                "the checkpoint of the best step, {step}, is gone: the search starts anew"
            )));
        }
        let Some(path) = path else { return Ok(()) };
        let tensors = candle_core::safetensors::load(&path, &candle_core::Device::Cpu)?;
        let mut weights: Vec<_> = tensors.into_iter().collect();
        weights.sort_by(|a, b| a.0.cmp(&b.0));
        self.hand_over(weights)
    }

    /// Without a validation there is no best model: the last one is handed over.
    fn leave_model(&mut self) -> Result<()> {
        if self.state.best.is_some() {
            return Ok(());
        }
        self.folder.summary = self.summary(None);
        self.write_model()
    }

    /// Writes model/, with adapters multiplied out, and adapter/ with the adapters alone.
    fn hand_over(&self, weights: Vec<(String, candle_core::Tensor)>) -> Result<()> {
        let Some(scale) = self.params.adapter_scale() else {
            return self.books.replace_folder("model", |folder| write_model(folder, &self.folder, &weights));
        };
        let options = AdapterOptions {
            rank: self.config.lora.rank,
            alpha: self.config.lora.alpha,
            dropout: self.config.lora.dropout,
        };
        self.books.replace_folder("adapter", |folder| write_adapter(folder, &self.folder, &options, &weights))?;
        let merged = lora::merge(weights, scale)?;
        self.books.replace_folder("model", |folder| write_model(folder, &self.folder, &merged))
    }

    pub(super) fn write_model(&self) -> Result<()> {
        self.hand_over(self.judged().tensors())
    }
}
