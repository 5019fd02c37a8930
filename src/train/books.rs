//! What a run keeps of itself on disk and shows on stderr.
//!
//! Only the first rank keeps books: two ranks never write one file. Those of the others take everything and do nothing.

use std::path::Path;

use anyhow::{Context, Result};

use super::checkpoint;
use super::records::{RunRecord, TrainState};
use crate::config::Config;
use crate::error::one_line;
use crate::eval::Pictures;
use crate::fs::{replace_file, replace_folder};
use crate::model::Params;
use crate::optim::{AdamW, Ema};
use crate::run_report;
use crate::track::{Event, JsonlSink, Lengths, ProgressSink, RunFolder, Sink, TensorboardSink};

pub(super) struct Books(Option<Kept>);

struct Kept {
    run: RunFolder,
    jsonl: JsonlSink,
    tensorboard: Option<TensorboardSink>,
    progress: ProgressSink,
}

impl Books {
    /// Opens the books of a run that stands at `state`; what was written after it is cut off, for it will be done again.
    pub(super) fn open(
        run: Option<RunFolder>,
        config: &Config,
        record: &RunRecord,
        state: &TrainState,
    ) -> Result<Self> {
        let Some(run) = run else { return Ok(Self(None)) };
        replace_file(&run.path().join("run.json"), &serde_json::to_vec_pretty(record)?)?;
        replace_file(&run.config_path(), config.to_toml().as_bytes())?;
        checkpoint::forget_after(&run, state.step)?;
        let (metrics, timing, skipped) = (state.metrics_bytes, state.timing_bytes, state.skipped_bytes);
        Ok(Self(Some(Kept {
            jsonl: JsonlSink::open(run.path(), Lengths { metrics, timing, skipped })?,
            tensorboard: config.train.tensorboard.then(|| TensorboardSink::open(run.path())).transpose()?,
            progress: ProgressSink::new(config.train.log_every),
            run,
        })))
    }

    pub(super) fn emit(&mut self, event: &Event) -> Result<()> {
        let Some(kept) = &mut self.0 else { return Ok(()) };
        kept.jsonl.on(event)?;
        kept.tensorboard.as_mut().map_or(Ok(()), |sink| sink.on(event))?;
        kept.progress.on(event)
    }

    /// Notes in `state` how long the files are, and writes the checkpoint.
    pub(super) fn save(
        &mut self,
        params: &Params,
        optimizer: &AdamW,
        ema: Option<&Ema>,
        state: &mut TrainState,
    ) -> Result<()> {
        let Some(kept) = &mut self.0 else { return Ok(()) };
        let lengths = kept.jsonl.sync()?;
        state.metrics_bytes = lengths.metrics;
        state.timing_bytes = lengths.timing;
        state.skipped_bytes = lengths.skipped;
        checkpoint::save(&kept.run, params, optimizer, ema, state)
            .with_context(|| format!("saving step {}", state.step))
    }

    pub(super) fn keep_pictures(&self, tuned: bool, pictures: &Pictures) -> Result<()> {
        let Some(kept) = &self.0 else { return Ok(()) };
        replace_file(&kept.run.pictures(tuned), &serde_json::to_vec(pictures)?)
    }

    /// Puts a folder of this name into the run's.
    pub(super) fn replace_folder(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |kept| replace_folder(&kept.run.path().join(name), fill))
    }

    /// The run's page. One that cannot be written is no reason to lose a run.
    pub(super) fn draw_page(&mut self) -> Result<()> {
        let Some(kept) = &self.0 else { return Ok(()) };
        let path = kept.run.path().join("report.html");
        let drawn = run_report::page(&[kept.run.path()]).and_then(|page| replace_file(&path, page.as_bytes()));
        drawn.or_else(|e| self.emit(&Event::Warning(format!("the run's page: {}", one_line(&e)))))
    }
}
