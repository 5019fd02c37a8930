//! Rows that cannot be read: told once, counted by every rank, refused when they are too many.

use anyhow::{Context, Result, ensure};

use super::records::SkippedRow;
use super::trainer::Trainer;
use crate::data::{OnError, RowError};
use crate::track::Event;

impl Trainer<'_> {
    /// Rows that this rank could not read; every rank takes note of those of all.
    pub(super) fn take_errors(&mut self, errors: &[RowError]) -> Result<()> {
        let first = errors.first().map_or(String::new(), |e| format!("{}: {}", e.place, e.reason));
        ensure!(
            errors.is_empty() || self.config.data.on_error == OnError::Skip,
            "{first}; mend it, or set data.on_error = \"skip\""
        );
        let own: Vec<SkippedRow> = errors.iter().map(|e| SkippedRow::unreadable("train", (e.file, e.line))).collect();
        let mut rows = Vec::new();
        for told in self.world.gather_bytes(&serde_json::to_vec(&own)?)? {
            rows.extend(serde_json::from_slice::<Vec<SkippedRow>>(&told)?);
        }
        if rows.is_empty() { Ok(()) } else { self.note_skipped(rows).context(first) }
    }

    /// Counts rows that could not be read and tells of those that are new.
    pub(super) fn note_skipped(&mut self, rows: Vec<SkippedRow>) -> Result<()> {
        let known = &mut self.state.progress.skipped;
        let new: Vec<SkippedRow> = rows.into_iter().filter(|r| !known.contains(r)).collect();
        known.extend(new.iter().cloned());
        let total = known.len();
        for rows in new.chunk_by(|a, b| a.manifest == b.manifest) {
            let lines = rows.iter().map(|r| (r.line, r.reason.clone())).collect();
            self.emit(&Event::Skipped { manifest: rows[0].manifest.clone(), lines, total })?;
        }
        let allowed = self.config.data.max_skipped;
        ensure!(total <= allowed, "that makes {total} rows that cannot be used, and data.max_skipped is {allowed}");
        Ok(())
    }
}
