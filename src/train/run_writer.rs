//! Everything that a run writes: its record, its events into their sinks, checkpoints, pictures, the page.
//!
//! Only the first rank writes: two ranks never write one file. The writers of the others take everything and do
//! nothing.

use std::path::Path;

use anyhow::{Context, Result};

use super::checkpoint;
use super::records::{Progress, RunRecord};
use super::state::State;
use super::tracking::about;
use crate::config::Config;
use crate::error::one_line;
use crate::eval::Pictures;
use crate::fs::{replace_file, replace_folder, replace_private};
use crate::run_report;
use crate::track::{Event, JsonlSink, Lengths, MlflowSink, Note, ProgressSink, RunFolder, Sink, TensorboardSink};

pub(super) struct RunWriter(Option<Files>);

/// Of the first rank.
struct Files {
    run: RunFolder,
    jsonl: JsonlSink,
    tensorboard: Option<TensorboardSink>,
    mlflow: Option<MlflowSink>,
    progress: ProgressSink,
}

impl RunWriter {
    /// Opens the files of a run that stands at `progress`; what was written after it is cut off, for it will be done
    /// again.
    pub(super) fn open(
        run: Option<RunFolder>,
        config: &Config,
        record: &RunRecord,
        progress: &Progress,
    ) -> Result<Self> {
        let Some(run) = run else { return Ok(Self(None)) };
        // First what makes the folder a run's: a kill here leaves one that can be resumed.
        replace_file(&run.config_path(), config.to_keep().as_bytes())?;
        replace_file(&run.path().join("run.json"), &serde_json::to_vec_pretty(record)?)?;
        checkpoint::forget_after(&run, progress.step)?;
        let lengths =
            Lengths { metrics: progress.metrics_bytes, timing: progress.timing_bytes, skipped: progress.skipped_bytes };
        Ok(Self(Some(Files {
            jsonl: JsonlSink::open(run.path(), lengths)?,
            tensorboard: config.train.tensorboard.then(|| TensorboardSink::open(run.path())).transpose()?,
            // After jsonl, which cuts the file that it reads.
            mlflow: config
                .track
                .mlflow
                .as_ref()
                .map(|address| MlflowSink::open(address, run.path(), about(config, record, &run)))
                .transpose()?,
            progress: ProgressSink::new(config.train.log_every),
            run,
        })))
    }

    pub(super) fn emit(&mut self, event: &Event) -> Result<()> {
        let Some(files) = &mut self.0 else { return Ok(()) };
        // First what is kept here: what the server has no time for is read from there.
        files.keep(event)?;
        if let Some(mlflow) = &mut files.mlflow {
            mlflow.on(event)?;
            if let Some(trouble) = mlflow.trouble() {
                files.keep(&Event::Note(Note::warning(trouble)))?;
            }
        }
        Ok(())
    }
}

impl Files {
    /// An event into what is kept and shown here.
    fn keep(&mut self, event: &Event) -> Result<()> {
        self.jsonl.on(event)?;
        self.tensorboard.as_mut().map_or(Ok(()), |sink| sink.on(event))?;
        self.progress.on(event)
    }
}

impl RunWriter {
    /// Notes in `state` how long the files are, and writes the checkpoint.
    pub(super) fn save(&mut self, state: &mut State) -> Result<()> {
        let Some(files) = &mut self.0 else { return Ok(()) };
        let lengths = files.jsonl.sync()?;
        let progress = &mut state.progress;
        progress.metrics_bytes = lengths.metrics;
        progress.timing_bytes = lengths.timing;
        progress.skipped_bytes = lengths.skipped;
        checkpoint::save(&files.run, state).with_context(|| format!("saving step {}", state.progress.step))
    }

    /// The run's folder, which the first rank alone knows.
    pub(super) fn run(&self) -> Option<&RunFolder> {
        self.0.as_ref().map(|files| &files.run)
    }

    /// What stays of a validation to be looked at.
    pub(super) fn keep_pictures(&self, tuned: bool, pictures: &Pictures) -> Result<()> {
        let Some(files) = &self.0 else { return Ok(()) };
        replace_private(&files.run.pictures(tuned), &serde_json::to_vec(pictures)?)
    }

    /// Puts a folder of this name into the run's.
    pub(super) fn replace_folder(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |files| replace_folder(&files.run.path().join(name), fill))
    }

    /// The run's page. One that cannot be written is no reason to lose a run.
    pub(super) fn draw_page(&mut self) -> Result<()> {
        let Some(files) = &self.0 else { return Ok(()) };
        let path = files.run.path().join("report.html");
        let drawn = run_report::page(&[files.run.path()]).and_then(|page| page.write(&path));
        drawn.or_else(|e| self.emit(&Event::Note(Note::warning(format!("the run's page: {}", one_line(&e))))))
    }
}
