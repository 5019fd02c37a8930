//! metrics.jsonl (steps and validations, reproducible to the bit) and timing.jsonl (seconds).

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::event::{Event, Sink};
use super::note::Level;

/// Stores events, one JSON object a line.
pub struct JsonlSink {
    metrics: Lines,
    timing: Lines,
    skipped: Lines,
}

/// Lengths of the three files in bytes, as a checkpoint notes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// metrics.jsonl
    pub metrics: u64,
    /// timing.jsonl
    pub timing: u64,
    /// skipped.jsonl
    pub skipped: u64,
}

struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JsonlSink {
    /// Opens the files of a run folder and cuts them to the lengths that a checkpoint noted: what came after it will be
    /// done again.
    ///
    /// # Errors
    /// A file cannot be opened, or is shorter than noted.
    pub fn open(folder: &Path, lengths: Lengths) -> Result<Self> {
        Ok(Self {
            metrics: Lines::open(folder.join("metrics.jsonl"), lengths.metrics)?,
            timing: Lines::open(folder.join("timing.jsonl"), lengths.timing)?,
            skipped: Lines::open(folder.join("skipped.jsonl"), lengths.skipped)?,
        })
    }

    /// Makes everything written so far safe on disk; returns the files' lengths.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn sync(&mut self) -> Result<Lengths> {
        Ok(Lengths { metrics: self.metrics.sync()?, timing: self.timing.sync()?, skipped: self.skipped.sync()? })
    }
}

impl Lines {
    fn open(path: PathBuf, bytes: u64) -> Result<Self> {
        let open = || -> std::io::Result<(File, u64)> {
            let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (mut file, length) = open().with_context(|| path.display().to_string())?;
        ensure!(
            length >= bytes,
            "{}: has {length} bytes, the checkpoint noted {bytes}; the run folder was changed since",
            path.display()
        );
        let cut = |file: &mut File| file.set_len(bytes).and_then(|()| file.seek(SeekFrom::End(0)));
        cut(&mut file).with_context(|| path.display().to_string())?;
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
            Event::Eval { step, figures, compared, best, .. } => self
                .metrics
                .write(&json!({"kind": "eval", "step": step, "best": best, "metric": compared, "val": figures})),
            Event::Skipped { manifest, lines, .. } => lines.iter().try_for_each(|(line, reason)| {
                self.skipped.write(&json!({"manifest": manifest, "line": line, "reason": reason}))
            }),
            Event::Timing { step, seconds, waiting, samples_per_s } => self
                .timing
                .write(&json!({"step": step, "seconds": seconds, "waiting": waiting, "samples_per_s": samples_per_s})),
            Event::Note(note) => self.timing.write(&match note.level {
                Level::Choice => json!({"note": note.text}),
                Level::Warning => json!({"warning": note.text}),
            }),
            Event::Start { .. } | Event::Preparing { .. } | Event::Test { .. } | Event::End(_) => Ok(()),
        }
    }
}
