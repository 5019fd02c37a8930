//! metrics.jsonl (steps and validations, reproducible to the bit) and timing.jsonl (seconds).

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::event::{Event, Sink};

/// Stores events, one JSON object a line.
pub struct JsonlSink {
    metrics: Lines,
    timing: Lines,
}

struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JsonlSink {
    /// Opens both files of a run folder and cuts them to the lengths that a checkpoint noted: what came after it will
    /// be done again.
    ///
    /// # Errors
    /// The files cannot be opened.
    pub fn open(folder: &Path, metrics_bytes: u64, timing_bytes: u64) -> Result<Self> {
        Ok(Self {
            metrics: Lines::open(folder.join("metrics.jsonl"), metrics_bytes)?,
            timing: Lines::open(folder.join("timing.jsonl"), timing_bytes)?,
        })
    }

    /// Makes everything written so far safe on disk; returns the lengths of both files.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn sync(&mut self) -> Result<(u64, u64)> {
        Ok((self.metrics.sync()?, self.timing.sync()?))
    }
}

impl Lines {
    fn open(path: PathBuf, bytes: u64) -> Result<Self> {
        let open = || -> std::io::Result<File> {
            let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path)?;
            // A file shorter than noted was changed by somebody; padding it with zeros would make it worse.
            let length = file.metadata()?.len().min(bytes);
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().with_context(|| path.display().to_string())?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn write(&mut self, value: &serde_json::Value) -> Result<()> {
        // Flushed line by line: a reader sees each step, and a kill loses none that was reported.
        writeln!(self.file, "{value}").and_then(|()| self.file.flush()).with_context(|| self.path.display().to_string())
    }

    fn sync(&mut self) -> Result<u64> {
        let sync = |file: &mut BufWriter<File>| {
            file.flush()?;
            file.get_ref().sync_data()?;
            file.get_ref().metadata().map(|m| m.len())
        };
        sync(&mut self.file).with_context(|| self.path.display().to_string())
    }
}

impl Sink for JsonlSink {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Step(record) => {
                let mut line = json!({"kind": "step"});
                let fields = serde_json::to_value(record)?;
                for (key, value) in fields.as_object().into_iter().flatten() {
                    line[key] = value.clone();
                }
                self.metrics.write(&line)
            }
            Event::Eval { step, figures, best, .. } => {
                self.metrics.write(&json!({"kind": "eval", "step": step, "best": best, "val": figures}))
            }
            Event::Skipped { lines, total } => {
                self.metrics.write(&json!({"kind": "skipped", "manifest_lines": lines, "total": total}))
            }
            Event::Timing { step, seconds, waiting, samples_per_s } => self
                .timing
                .write(&json!({"step": step, "seconds": seconds, "waiting": waiting, "samples_per_s": samples_per_s})),
            Event::Warning(text) => self.timing.write(&json!({"warning": text})),
            Event::Start { .. } | Event::End => Ok(()),
        }
    }
}
