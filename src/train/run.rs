//! The run: the training loop on one screen, and what only it needs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::prepare::Prepared;
use super::records::{BestStep, TestFigures};
use super::resume::Resume;
use super::step::TrainStep;
use super::stop::{self, Cause, Stopped};
use super::thaw;
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::{Batch, Prefetch};
use crate::dist::Collective;
use crate::eval::Validation;
use crate::loss::LossOutput;
use crate::metrics::Metric;
use crate::model::Noise;
use crate::ops::Uploader;
use crate::track::{Ending, Event, RunFolder};

/// How it ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Steps done.
    pub steps: u64,
    /// Steps planned.
    pub total_steps: u64,
    /// Why it ended before its last step.
    pub stopped: Option<Stopped>,
    /// Figures before the first step; absent without validation pairs.
    pub untuned: Option<Validation>,
    /// The best validation after the start.
    pub best: Option<BestStep>,
    /// By which figure it was chosen.
    pub best_metric: Metric,
    /// Figures of the split `test`, where there is one and the run is done.
    pub test: Option<TestFigures>,
    /// Seconds of this process's part.
    pub seconds: f64,
}

/// Trains as `config` says, together with the other ranks of `world`, and leaves the best model in the run folder,
/// which the first rank alone is given.
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
    let checkpoint = match resume {
        Resume::From(checkpoint) => checkpoint.as_deref(),
        Resume::No => None,
    };
    let mut trainer = Trainer::new(config, prepared, run, checkpoint, world)?;
    let result = match trainer.keep_features() {
        Ok(None) => trainer.run(),
        other => other,
    };
    let result = result.and_then(|stopped| Ok((trainer.judge_handed_over(stopped.as_ref())?, stopped)));
    let ending = match &result {
        Ok((test, stopped)) => {
            let step = trainer.step_number();
            let figures = test.as_ref().map(|test| serde_json::to_value(&test.tuned)).transpose()?;
            figures.map_or(Ok(()), |figures| trainer.emit(&Event::Test { step, figures }))?;
            let goes_on = stopped.as_ref().is_some_and(|stopped| stopped.cause != Cause::EarlyStopping);
            if goes_on { Ending::Stopped } else { Ending::Done }
        }
        Err(_) => Ending::Failed,
    };
    let (test, stopped) = first_error(result, [trainer.writer.draw_page(), trainer.emit(&Event::End(ending))])?;
    Ok(Outcome {
        steps: trainer.step_number(),
        total_steps: trainer.plan.total_steps,
        stopped,
        untuned: trainer.state.progress.untuned,
        best: trainer.state.progress.best,
        best_metric: trainer.best_metric,
        test,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// `result`, and where that is fine the first error of what was done `after` it: on a full disk all of them fail, and
/// what failed first says most.
fn first_error<T>(result: Result<T>, after: impl IntoIterator<Item = Result<()>>) -> Result<T> {
    let value = result?;
    after.into_iter().collect::<Result<()>>()?;
    Ok(value)
}

impl Trainer<'_> {
    /// The loop: evaluate, save, stop, forward and backward, step, log. Returns why it ended early.
    fn run(&mut self) -> Result<Option<Stopped>> {
        let begun = self.step_number();
        self.emit(&Event::Start { step: begun, total: self.plan.total_steps })?;
        if begun == 0 {
            self.judge_untuned()?;
        }
        let mut batches = if self.mines() { None } else { Some(self.prefetch()?) };
        loop {
            let step = self.step_number();
            if self.eval_is_due() {
                self.evaluate()?;
            }
            let stop = self.reason_to_stop()?;
            let ends = stop.is_some() || step == self.plan.total_steps;
            // Nothing is lost by not saving step 0: starting again gives the same.
            if ends || (step > 0 && step.is_multiple_of(self.plan.checkpoint_every)) {
                self.save()?;
            }
            if ends {
                if stop == Some(Cause::StopAfter) {
                    self.evaluate_at_pause()?;
                }
                self.leave_model()?;
                return Ok(stop.map(|cause| Stopped { cause, text: self.describe(cause, begun) }));
            }
            let started = Instant::now();
            if self.mining_is_due() {
                // What was read ahead ended here.
                batches = None;
                self.mine()?;
            }
            let ahead = match &mut batches {
                Some(ahead) => ahead,
                None => batches.insert(self.prefetch()?),
            };
            let (chunks, pairs) = self.next_chunks(ahead)?;
            let waiting = started.elapsed().as_secs_f64();
            let lr_factor = self.plan.schedule.factor(step);
            let logit_scale = self.state.logit_scale()?;
            let (loss, grad_norm) = self.step(&chunks, lr_factor).with_context(|| self.failed_step())?;
            self.state.progress.step += 1;
            self.unsaved = true;
            self.log(&loss, logit_scale, grad_norm, lr_factor)?;
            self.log_time(pairs, started.elapsed().as_secs_f64(), waiting)?;
        }
    }

    /// This rank's chunks from the current step on, decoded ahead.
    fn prefetch(&self) -> Result<Prefetch<Result<Batch>>> {
        let (end, per_step) = (self.mined_until(), self.plan.chunks.len() as u64);
        let (dataset, sampler) = (Arc::clone(&self.train), Arc::clone(&self.plan.sampler));
        let (data, chunks) = (&self.config.data, self.plan.chunks.clone());
        let uploader = if self.config.train.overlap_copies { Uploader::new(&self.device)? } else { None };
        let make = move |index| {
            let (step, places) = (index / per_step, chunks[(index % per_step) as usize].clone());
            let sample = step * sampler.rows_per_step() as u64 + places.start as u64;
            (step < end).then(|| {
                let batch = dataset.batch(&sampler.rows(step, places), sample)?;
                Ok(match &uploader {
                    Some(uploader) => batch.upload(uploader)?,
                    None => batch,
                })
            })
        };
        Prefetch::start(self.step_number() * per_step, data.workers, data.prefetch, make)
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
        ensure!(
            pairs >= 2,
            "step {}: fewer than 2 of its rows could be read; `reportclip data lint {}` tells what is wrong with each",
            self.step_number() + 1,
            self.config.data.train_name()
        );
        Ok((chunks, pairs))
    }

    fn step(&mut self, chunks: &[Batch], lr_factor: f64) -> Result<(LossOutput, f64)> {
        let (config, number) = (self.config, self.step_number());
        if thaw::freeze_at(config, self.plan.thaw, number) != self.frozen.config() {
            self.frozen = thaw::apply(config, self.plan.thaw, number, &mut self.state.params);
        }
        let eps = config.loss.label_smoothing.at(number, self.plan.smoothing_steps);
        let noise = Rc::new(Noise {
            dropout: config.train.dropout,
            patch_dropout: config.train.patch_dropout,
            adapter_dropout: config.lora.dropout,
            seed: config.seed,
            step: number,
            ..Noise::default()
        });
        let loss = self.supervision.loss(&config.loss, eps);
        let step = TrainStep {
            supervision: Some(&self.supervision),
            noise: Some(&noise),
            products: self.products,
            checkpoint_activations: config.train.checkpoint_activations,
            images_at_once: config.train.batch_size,
            opposites: config.data.negation > 0.0,
            frozen: Some(&self.frozen),
            sentences: self.sentences.as_ref(),
            ..TrainStep::new(&*self.world, &self.folder.config, &self.state.params, &loss)
        };
        let result = step.run(chunks, &mut self.state.optimizer, lr_factor)?;
        if let Some(ema) = &self.state.ema {
            ema.update(&self.state.params, number + 1)?;
        }
        Ok(result)
    }

    fn failed_step(&self) -> String {
        let last = match self.saved_at {
            Some(step) => format!("the checkpoint of step {step} is whole"),
            None => "there is no checkpoint yet".into(),
        };
        format!("step {} failed ({last})", self.step_number() + 1)
    }

    fn reason_to_stop(&self) -> Result<Option<Cause>> {
        // Whichever rank was asked: all stop at the same step.
        let asked = self.world.any(stop::asked())?;
        let (step, train) = (self.step_number(), &self.config.train);
        Ok(if step == self.plan.total_steps {
            None
        } else if asked {
            Some(Cause::Signal)
        } else if train.stop_after.is_some_and(|n| step >= n) {
            Some(Cause::StopAfter)
        } else if train.early_stopping > 0 && self.state.progress.evals_without_best >= train.early_stopping {
            Some(Cause::EarlyStopping)
        } else {
            None
        })
    }

    /// Why it ended early, in a line; this part of the run began at step `begun`.
    fn describe(&self, cause: Cause, begun: u64) -> String {
        let (step, total) = (self.step_number(), self.plan.total_steps);
        match cause {
            Cause::Signal => format!("stopped at step {step} of {total}, as asked; go on with --resume latest"),
            Cause::StopAfter if step == begun => format!(
                "stopped at step {step} of {total}, where it stood: train.stop_after is no later; set a later one"
            ),
            Cause::StopAfter => {
                format!("stopped at step {step} of {total}, as train.stop_after says; go on with --resume latest")
            }
            Cause::EarlyStopping => format!(
                "stopped early at step {step} of {total}: no better validation for {} times",
                self.config.train.early_stopping
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn what_failed_first_is_told() {
        let fails = |text: &'static str| Err(anyhow!(text));
        let told = |result: Result<u32>, after| first_error(result, after).unwrap_err().to_string();
        assert_eq!(told(Err(anyhow!("disk full")), [fails("page"), fails("end")]), "disk full");
        assert_eq!(told(Err(anyhow!("disk full")), [Ok(()), Ok(())]), "disk full");
        assert_eq!(told(Ok(1), [fails("page"), fails("end")]), "page");
        assert_eq!(told(Ok(1), [Ok(()), fails("end")]), "end");
        assert_eq!(first_error(Ok(1), [Ok(()), Ok(())]).unwrap(), 1);
    }
}
