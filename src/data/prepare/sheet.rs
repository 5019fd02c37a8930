//! The CSV files of data sets, compressed or not.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use crate::data::bounded::{Bounded, OfRows};
use crate::data::table::{Unswallowed, names_of, separator_of, similar, why_not_utf8};
use crate::fs::open_plain;

/// Most that a compressed file may unpack to.
const MOST_UNPACKED: u64 = 4 << 30;
/// The separator is told from this much.
const SAMPLE: usize = 64 << 10;
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
/// Returns how many rows were left out since they have cells beyond the header: `Found::leave_out_long` counts them.
pub(super) fn each<const N: usize>(
    path: &Path,
    columns: [&str; N],
    mut take: impl FnMut([&str; N]) -> Result<()>,
) -> Result<usize> {
    let needed: Vec<&str> = columns.into_iter().filter(|column| !column.ends_with('?')).collect();
    let asked = Asked { columns, needed: &needed.join(", "), header: |_| Ok(()) };
    let mut long = 0;
    each_row(path, &asked, |_, row| match row {
        Ok(row) => take(row),
        Err(_) => {
            long += 1;
            Ok(())
        }
    })?;
    Ok(long)
}

/// What is asked of a table.
pub(in crate::data) struct Asked<'a, const N: usize> {
    /// Its columns; one that is missing is an error unless its name ends in `?`.
    pub columns: [&'a str; N],
    /// Those that it must have, in words.
    pub needed: &'a str,
    /// What is wrong with its header, of which no cell has blanks around it.
    pub header: fn(&[&str]) -> Result<()>,
}

/// Hands the asked columns of each row to `take`, with the line of the file on which it begins, the header's being 1.
/// The separator is read off the header; cells beyond it are an error, since a row that is cut at a comma of its text
/// says something else.
pub(in crate::data) fn each_line<const N: usize>(
    path: &Path,
    asked: &Asked<N>,
    mut take: impl FnMut(u64, [&str; N]) -> Result<()>,
) -> Result<()> {
    each_row(path, asked, |line, row| match row {
        Ok(row) => take(line, row),
        Err(Cells { own, known }) => {
            let path = path.display();
            bail!("{path}: line {line}: {own} columns where the header has {known}; is a quote missing?")
        }
    })
}

/// How many cells a row has that has more than its header.
struct Cells {
    own: usize,
    known: usize,
}

/// [`each_line`], where `take` says what becomes of rows with cells beyond the header.
fn each_row<const N: usize>(
    path: &Path,
    asked: &Asked<N>,
    mut take: impl FnMut(u64, Result<[&str; N], Cells>) -> Result<()>,
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
    let mut reader = BufReader::with_capacity(SAMPLE, reader);
    let columns = asked.columns.map(|c| c.trim_end_matches('?'));
    let sample = reader.fill_buf().with_context(|| format!("{}: is broken or not UTF-8", path.display()))?;
    let separator = separator_of(sample, b'"', &columns);
    let reader = OfRows::new(Unswallowed::new(reader, separator), MOST_RECORD);
    let row = Rc::clone(&reader.row);
    let mut options = csv::ReaderBuilder::new();
    let mut reader = options.delimiter(separator).flexible(true).buffer_capacity(1 << 18).from_reader(reader);
    let header = reader.headers().map_err(broken)?.clone();
    ensure!(
        header.iter().any(|cell| !cell.trim().is_empty()),
        "{}: has no header; its first row must name columns: {}",
        path.display(),
        asked.needed
    );
    let known: Vec<&str> = header.iter().map(str::trim).collect();
    let mut at = [None; N];
    for ((at, name), column) in at.iter_mut().zip(columns).zip(asked.columns) {
        let mut named = (0..known.len()).filter(|&at| known[at] == name);
        *at = named.next();
        if let Some((first, second)) = at.zip(named.next()) {
            let (path, first, second) = (path.display(), first + 1, second + 1);
            bail!("{path}: columns {first} and {second} are both called {name:?}; rename or remove one");
        }
        if at.is_none() && !column.ends_with('?') {
            let is_header = known.iter().any(|cell| columns.iter().any(|name| name.eq_ignore_ascii_case(cell)));
            let only = names_of(&known, is_header, &[asked.needed]);
            let hint = similar(name, &known).map_or(String::new(), |close| format!("; did you mean {close:?}?"));
            bail!("{}: there is no column {name:?}, only {only}{hint}", path.display());
        }
    }
    (asked.header)(&known).with_context(place)?;
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
        let beyond = record.iter().skip(known.len()).any(|cell| !cell.trim().is_empty());
        let row = match beyond {
            true => Err(Cells { own: record.len(), known: known.len() }),
            false => Ok(at.map(|at| at.and_then(|at| record.get(at)).unwrap_or_default().trim())),
        };
        take(line, row)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comma of the text that no quotes hold, as it cuts the report of one row in a hundred thousand.
    #[test]
    fn rows_with_cells_beyond_the_header_are_left_out_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        std::fs::write(&path, "image,report\na,Clear lungs.,\nb,Effusion, large\nc,Nodule.\n").unwrap();
        let mut seen = Vec::new();
        let long = each(&path, ["image", "report"], |row| {
            seen.push(row.map(String::from));
            Ok(())
        });
        assert_eq!(long.unwrap(), 1);
        assert_eq!(seen, [["a", "Clear lungs."], ["c", "Nodule."]]);
        let asked = Asked { columns: ["image"], needed: "image", header: |_| Ok(()) };
        let told = each_line(&path, &asked, |_, _| Ok(())).unwrap_err().to_string();
        assert!(told.ends_with("line 3: 3 columns where the header has 2; is a quote missing?"), "{told}");
    }

    /// A quote that swallowed rows would put one patient's report into another's.
    #[test]
    fn quotes_that_swallow_rows_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("reports.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let mut seen = Vec::new();
            each(&path, ["image", "report"], |row| {
                seen.push(row.map(String::from));
                Ok(())
            })
            .map(|_| seen)
            .map_err(|e| format!("{e:#}"))
        };
        let open = "image,report\na,\"Opacity\nb,Clear.\n";
        assert!(read(open).unwrap_err().contains("line 2: a quote opens here and is never closed"), "{:?}", read(open));
        let cut = "image,report\na,\"Opacity\nb,\"Clear.\"\n";
        assert!(read(cut).unwrap_err().contains("line 2: a quote opens here and is followed by text on line 3"));
        let fine = "image,report\na,\"Two\nlines, \"\"so\"\"\"\nb,\"Left\" effusion\n";
        assert_eq!(read(fine).unwrap(), [["a", "Two\nlines, \"so\""], ["b", "Left effusion"]]);
    }
}
