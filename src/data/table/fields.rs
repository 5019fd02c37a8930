//! The texts of a row, as every format hands them over.

use super::columns::Columns;

/// What a row may hold, in the order of its spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Image,
    Report,
    Patient,
    Study,
    Split,
    Label,
    /// Values of the columns that were asked for beside these, see [`Row::extra`](crate::data::Row::extra).
    Extra,
}

/// As many as [`Field`] has.
pub(super) const FIELDS: usize = 7;

/// Those of a column each: all but [`Field::Extra`].
pub(super) const NAMED: usize = FIELDS - 1;

/// Between the values of [`Field::Extra`]: ASCII's unit separator, which no text has.
pub(super) const EXTRA_SEPARATOR: char = '\u{1f}';

/// Between the images of a row that names several: ASCII's record separator, which no path has.
pub(super) const IMAGE_SEPARATOR: char = '\u{1e}';

/// Between the name of an image within the file that rows come from, its row and its number there.
pub(super) const PLACE_SEPARATOR: char = '\u{1f}';

/// An image within the file that rows come from, as the text of a row with several names it.
pub(super) fn packed_name(name: &str, line: u64, part: u32) -> String {
    format!("{name}{PLACE_SEPARATOR}{line}{PLACE_SEPARATOR}{part}")
}

/// Texts of a row as read; empty ones are `None`.
pub(super) type Fields = [Option<String>; FIELDS];

/// Takes a row as read: its line, and its texts or what is wrong with it.
pub(super) type Take<'a> = dyn FnMut(u64, Result<Fields, Unusable>) + 'a;

/// Why a row cannot be used, as far as somebody may want to tell the kinds apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// Its image file is not there.
    MissingImage,
    /// It has no report.
    EmptyReport,
    /// Its report is a Git LFS pointer.
    LfsPointer,
    /// It names no image.
    NoImage,
    /// Its images begin as a JSON list and are none.
    BrokenList,
    /// It has too few or too many columns.
    BrokenRow,
    /// Another reason.
    Other,
}

/// What is wrong with a row, without the report or patient.
#[derive(Clone, Debug)]
pub(super) struct Unusable {
    pub kind: ProblemKind,
    pub reason: String,
}

impl Unusable {
    pub fn new(kind: ProblemKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }
}

impl From<String> for Unusable {
    fn from(reason: String) -> Self {
        Self::new(ProblemKind::Other, reason)
    }
}

/// `text` without blanks around it; `None` where nothing is left.
pub(super) fn filled(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

/// In the order of [`Field`], all but the last.
pub(super) fn names(c: &Columns) -> [&str; NAMED] {
    c.named()
}

/// The values of [`Columns::extra`], which `value` finds by name, as one field.
pub(super) fn extra_field(columns: &Columns, value: impl FnMut(&String) -> Option<String>) -> Option<String> {
    let values = columns.extra.iter().map(value).map(Option::unwrap_or_default);
    let values: Vec<String> = values.map(|v| v.replace(EXTRA_SEPARATOR, " ")).collect();
    (!values.is_empty()).then(|| values.join(EXTRA_SEPARATOR.encode_utf8(&mut [0; 4])))
}
