//! The CSV files of data sets, compressed or not.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow, ensure};

use crate::data::bounded::{Bounded, OfRows};
use crate::data::table::{names_of, why_not_utf8};
use crate::fs::open_plain;

/// Most that a compressed file may unpack to.
const MOST_UNPACKED: u64 = 4 << 30;
/// Longest row; no report is longer.
const MOST_RECORD: u64 = 16 << 20;

/// `name`, or `name.gz`, in `root`.
pub(super) fn find(root: &Path, name: &str) -> Option<PathBuf> {
    [name.to_string(), format!("{name}.gz")].into_iter().map(|n| root.join(n)).find(|path| path.is_file())
}

/// As [`find`], with an error that says what was looked for.
pub(super) fn required(root: &Path, name: &str) -> Result<PathBuf> {
    find(root, name)
        .with_context(|| format!("{}: holds no {name} nor {name}.gz; is this the data set's folder?", root.display()))
}

/// Hands the named columns of each row to `take`; a column that is missing is an error unless its name ends in `?`.
pub(in crate::data) fn each<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut take: impl FnMut([&str; N]) -> Result<()>,
) -> Result<()> {
    each_line(path, columns, |_, row| take(row))
}

/// [`each`] with the line of the file on which the row begins, the header's being 1.
pub(in crate::data) fn each_line<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut take: impl FnMut(u64, [&str; N]) -> Result<()>,
) -> Result<()> {
    let place = || path.display().to_string();
    let is_packed = path.extension().is_some_and(|e| e == "gz");
    let broken = |e: csv::Error| {
        let is_plain = !is_packed && matches!(e.kind(), csv::ErrorKind::Utf8 { .. });
        match is_plain.then(|| why_not_utf8(path)).flatten() {
            Some(why) => anyhow!("{}: {why}", path.display()),
            None => Error::from(e).context(format!("{}: is broken or not UTF-8", path.display())),
        }
    };
    let file = open_plain(path).with_context(place)?;
    let reader: Box<dyn Read> = if is_packed {
        Box::new(Bounded::new(flate2::read::MultiGzDecoder::new(file), MOST_UNPACKED))
    } else {
        Box::new(file)
    };
    let reader = OfRows::new(reader, MOST_RECORD);
    let row = Rc::clone(&reader.row);
    let mut reader = csv::ReaderBuilder::new().flexible(true).buffer_capacity(1 << 18).from_reader(reader);
    let header = reader.headers().map_err(broken)?.clone();
    let wanted = columns.map(|c| c.trim_end_matches('?'));
    ensure!(
        header.iter().any(|cell| !cell.trim().is_empty()),
        "{}: has no header; its first row must name columns: {}",
        path.display(),
        wanted.join(", ")
    );
    let mut at = [None; N];
    for (at, column) in at.iter_mut().zip(columns) {
        let name = column.trim_end_matches('?');
        let mut named = header.iter().enumerate().filter(|(_, h)| h.trim() == name).map(|(at, _)| at);
        *at = named.next();
        if let Some((first, second)) = at.zip(named.next()) {
            let (path, first, second) = (path.display(), first + 1, second + 1);
            anyhow::bail!("{path}: columns {first} and {second} are both called {name:?}; rename or remove one");
        }
        if at.is_none() && !column.ends_with('?') {
            let known = header.iter().collect::<Vec<_>>();
            let is_header = known.iter().any(|cell| wanted.contains(&cell.trim()));
            let only = names_of(&known, is_header, &wanted);
            anyhow::bail!("{}: there is no column {name:?}, only {only}", path.display());
        }
    }
    let mut record = csv::StringRecord::new();
    // The reader counts the line ends that it has passed, of which a row's own is one; not so "\r\n", whose second half
    // goes with the next row. Where a record begins, it does not say: blank lines may stand before.
    let lines_in =
        |record: &csv::StringRecord| record.iter().map(|cell| cell.matches('\n').count() as u64).sum::<u64>();
    let mut end = reader.position().line();
    let whole = u64::from(end > 1 + lines_in(&header));
    row.set(0);
    while reader.read_record(&mut record).map_err(broken)? {
        row.set(0);
        let next = end + 1 - whole;
        end = reader.position().line();
        let line = end.saturating_sub(lines_in(&record) + whole).max(next);
        take(line, at.map(|at| at.and_then(|at| record.get(at)).unwrap_or_default().trim()))?;
    }
    Ok(())
}
