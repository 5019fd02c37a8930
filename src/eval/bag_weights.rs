//! What each image counts in its row's bag, of a whole split, a line a row.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::explain_bag::{BagImage, ReadBag, explain_bag};
use crate::data::{Members, Row};
use crate::session::Session;

/// A row of a manifest.
#[derive(Serialize)]
struct Line<'a> {
    /// Its line in the manifest.
    line: u64,
    /// Cosine of its bag and its report.
    cosine: f64,
    /// Images of the bag, also those that are not read.
    count: usize,
    images: &'a [BagImage],
}

/// Writes JSON lines: of each row the images of its bag that are read, with what they are to its own report.
///
/// # Errors
/// An image that cannot be read, or `to` cannot be written.
pub(super) fn write_bag_weights(session: &Session, rows: &[Row], to: &mut dyn Write) -> Result<()> {
    for row in rows {
        let members = Members::of(row.image(), &session.folder.bags)?;
        let bag = explain_bag(session, ReadBag::of(session, &members)?, row.report())?;
        let line = Line { line: row.line, cosine: bag.cosine, count: bag.count, images: &bag.images };
        serde_json::to_writer(&mut *to, &line)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}
