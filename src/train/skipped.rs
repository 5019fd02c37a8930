//! Rows that cannot be read: told once, counted by every rank, refused when they are too many.

use anyhow::{Context, Result, ensure};

use super::records::SkippedRow;
use super::trainer::Trainer;
use crate::data::dicom::{unread_syntax, unread_syntaxes};
use crate::data::{OnError, RowError};
use crate::track::Event;

/// A row that cannot be used, and the transfer syntax of its image where that is not read: the file may be whole.
pub(super) type Skipped = (SkippedRow, Option<String>);

impl Trainer<'_> {
    /// Rows that this rank could not read; every rank takes note of those of all.
    pub(super) fn take_errors(&mut self, errors: &[RowError]) -> Result<()> {
        let first = errors.first().map_or(String::new(), |e| format!("{}: {}", e.place, e.reason));
        ensure!(
            errors.is_empty() || self.config.data.on_error == OnError::Skip,
            "{first}; mend it, or set data.on_error = \"skip\""
        );
        let skipped = |e: &RowError| {
            let syntax = unread_syntax(&e.reason).map(str::to_string);
            (SkippedRow::unreadable("train", (e.file, e.line)), syntax)
        };
        let own: Vec<Skipped> = errors.iter().map(skipped).collect();
        let mut rows = Vec::new();
        for told in self.world.gather_bytes(&serde_json::to_vec(&own)?)? {
            rows.extend(serde_json::from_slice::<Vec<Skipped>>(&told)?);
        }
        if rows.is_empty() { Ok(()) } else { self.note_skipped(rows).context(first) }
    }

    /// Counts rows that could not be read and tells of those that are new.
    pub(super) fn note_skipped(&mut self, rows: Vec<Skipped>) -> Result<()> {
        let known = &mut self.state.progress.skipped;
        let new: Vec<Skipped> = rows.into_iter().filter(|(row, _)| !known.contains(row)).collect();
        known.extend(new.iter().map(|(row, _)| row.clone()));
        let total = known.len();
        for rows in new.chunk_by(|(a, _), (b, _)| a.manifest == b.manifest) {
            let lines = rows.iter().map(|(row, _)| (row.line, row.reason.clone())).collect();
            let unread = unread_syntaxes(rows.iter().filter_map(|(_, syntax)| syntax.as_deref()));
            self.emit(&Event::Skipped { manifest: rows[0].0.manifest.clone(), lines, total, unread })?;
        }
        let allowed = self.config.data.max_skipped;
        ensure!(total <= allowed, "that makes {total} rows that cannot be used, and data.max_skipped is {allowed}");
        Ok(())
    }
}
