//! Rows that cannot be read: told once, counted by every rank, refused when they are too many.

use anyhow::{Context, Error, Result, ensure};

use super::readable::{MEND, with_row};
use super::records::SkippedRow;
use super::trainer::Trainer;
use crate::data::dicom::{unread_syntax, unread_syntaxes};
use crate::data::{OnError, Row, RowError};
use crate::session::UnreadableImage;
use crate::track::Event;

/// A row that cannot be used, and the transfer syntax of its image where that is not read: the file may be whole.
pub(super) type Skipped = (SkippedRow, Option<String>);

/// Takes the rows of the image that `error` is about out of `rows`, of the manifests called `manifest`, where
/// `on_error` says so. Gives the place of the first, and all.
///
/// # Errors
/// `error`, with the place of its row: rows are not to be left out, none would be left, or it is about no image.
pub(super) fn leave_out(
    error: Error,
    rows: &mut Vec<Row>,
    manifest: &str,
    on_error: OnError,
) -> Result<(String, Vec<Skipped>)> {
    let Some(unreadable) = error.downcast_ref::<UnreadableImage>() else { return Err(error) };
    let syntax = unread_syntax(&unreadable.reason).map(str::to_string);
    let bad: Vec<&Row> = rows.iter().filter(|row| row.image() == unreadable.image).collect();
    let place = bad.first().map(|row| row.place());
    let Some(place) = place.filter(|_| on_error == OnError::Skip && bad.len() < rows.len()) else {
        return Err(with_row(error, rows.iter(), on_error));
    };
    let skipped = |row: &&Row| (SkippedRow::unreadable(manifest, (row.origin().number, row.line)), syntax.clone());
    let skipped = bad.iter().map(skipped).collect();
    rows.retain(|row| row.image() != unreadable.image);
    Ok((place, skipped))
}

impl Trainer<'_> {
    /// Rows that this rank could not read; every rank takes note of those of all.
    pub(super) fn take_errors(&mut self, errors: &[RowError]) -> Result<()> {
        let first = errors.first().map_or(String::new(), |e| format!("{}: {}", e.place, e.reason));
        ensure!(errors.is_empty() || self.config.data.on_error == OnError::Skip, "{first}; {MEND}");
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
