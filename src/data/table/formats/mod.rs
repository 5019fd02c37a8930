//! Manifest formats, a file or folder each, and the table of them. A new one implements [`Format`] and gets two lines
//! here; nothing else names formats.

mod csv;
mod json;
mod jsonl;
mod parquet;
mod text;
mod webdataset;

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::data::table::columns::Columns;
use crate::data::table::format::{Format, NewColumn};

pub(in crate::data) use csv::{Unswallowed, separator_of};
pub use text::why_not_utf8;
pub use webdataset::{ShardSample, ShardWriter, shard_keys};

/// All formats. Folders are searched for what each knows in this order; a file belongs to the last that claims it, so
/// that CSV, which claims any, has what no other wants.
pub(super) static FORMATS: [&dyn Format; 4] = [&csv::Csv, &jsonl::Jsonl, &parquet::Parquet, &webdataset::WebDataset];

/// The format of a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn format_of(path: &Path) -> Result<&'static dyn Format> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    let head = text::head(path)?;
    FORMATS.into_iter().rev().find(|f| f.claims(&ending, &head)).context("is of no known format")
}

/// A file of queries.
const QUERIES: text::Meant = text::Meant { kind: "file of queries", rows: "a text, an image or both" };

/// What a file of queries has in the columns `names`, of which one is enough: of each row with the line that it begins
/// on. An object a line where the file's name says so, else cut at the separator that the header has.
///
/// # Errors
/// It cannot be read or is no text; none of the columns is there, or one is there twice or in other case only; a row
/// that is broken, by its line.
pub fn query_cells<const N: usize>(path: &Path, names: [&str; N]) -> Result<Vec<(u64, [Option<String>; N])>> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let mut source = text::open_as(path, QUERIES)?;
    if jsonl::Jsonl.claims(&ending, &[]) { jsonl::cells(&mut source, names) } else { csv::cells(source, names) }
}

/// What people call the formats, for help: `CSV, TSV, …`.
pub fn format_names() -> String {
    names(|_| true).join(", ")
}

fn names(wanted: impl Fn(&dyn Format) -> bool) -> Vec<&'static str> {
    FORMATS.into_iter().filter(|f| wanted(*f)).flat_map(|f| f.names().iter().copied()).collect()
}

/// The manifest at `path` with `new` columns set; all else as it was, in its own format.
///
/// # Errors
/// Its format cannot be written so, or it cannot be read.
pub fn set_columns(path: &Path, columns: &Columns, new: &[NewColumn]) -> Result<String> {
    let place = || path.display().to_string();
    let format = if path.is_dir() { None } else { Some(format_of(path).with_context(place)?) };
    let Some(format) = format.filter(|f| f.sets_columns()) else {
        let able = names(|f| f.sets_columns()).join(", ");
        bail!("{}: splits are written into {able} manifests only; make one first", place());
    };
    format.set_columns(path, columns, new).with_context(place)
}
