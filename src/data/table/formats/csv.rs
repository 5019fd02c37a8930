//! CSV as people write it: the separator, quote and escape are read off the file, and a quote that would swallow rows
//! is an error instead.

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::text;
use crate::data::table::columns::{Columns, missing_column, positions};
use crate::data::table::fields::{Field, Fields, ProblemKind, Take, Unusable, extra_field, filled, names};
use crate::data::table::format::{Format, InFolder, NewColumn, Table};

/// The format.
pub(super) struct Csv;

impl Format for Csv {
    fn names(&self) -> &'static [&'static str] {
        &["CSV", "TSV"]
    }

    /// Separator and quotes are read off the file, so any text may be one.
    fn claims(&self, _: &str, _: &[u8]) -> bool {
        true
    }

    fn in_folder(&self) -> InFolder {
        InFolder { manifests: &["manifest.csv", "metadata.csv"], parts: None }
    }

    fn open(&self, path: &Path, _: &Columns) -> Result<Box<dyn Table>> {
        Ok(Box::new(Records(Box::new(text::open(path)?))))
    }

    fn sets_columns(&self) -> bool {
        true
    }

    fn set_columns(&self, path: &Path, columns: &Columns, new: &[NewColumn]) -> Result<String> {
        with_columns(text::open(path)?, columns, new)
    }
}

struct Records(Box<dyn BufRead>);

impl Table for Records {
    fn read(self: Box<Self>, columns: &Columns, take: &mut Take) -> Result<()> {
        read(self.0, columns, take)
    }
}

/// Hands all records of a CSV with a header to `take`, without holding the file in memory.
fn read(mut source: impl BufRead, columns: &Columns, take: &mut Take) -> Result<()> {
    let dialect = Dialect::of_manifest(source.fill_buf()?, columns);
    let separator_name = dialect.separator_name();
    let starts = Rc::new(RefCell::new(VecDeque::new()));
    let mut reader = dialect.reader(Checked::new(source, dialect, Rc::clone(&starts)));
    let header = reader.headers().map_err(readable)?;
    let header: Vec<String> = header.iter().map(|h| h.trim().to_string()).collect();
    let known: Vec<&str> = header.iter().map(String::as_str).collect();
    let find = |name: &str| header.iter().position(|h| h == name);
    for required in columns.required() {
        if find(required).is_none() {
            bail!("line 1, cut at {separator_name}: {}", missing_column(required, &known, columns));
        }
    }
    let mut seen = HashSet::new();
    for name in header.iter().filter(|h| names(columns).contains(&h.as_str()) || columns.extra.contains(h)) {
        ensure!(seen.insert(name), "line 1: there are two columns {name:?}; rename one");
    }
    let positions = names(columns).map(find);
    let extra: Vec<Option<usize>> = columns.extra.iter().map(|name| find(name)).collect();
    let line_of_next = || starts.borrow_mut().pop_front().unwrap_or_default();
    line_of_next();
    let mut record = csv::StringRecord::new();
    let mut records = 0u64;
    loop {
        let fields = match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {
                let text = |p: Option<usize>| p.and_then(|p| record.get(p)).and_then(filled);
                let mut fields = Fields::default();
                fields.iter_mut().zip(positions).for_each(|(field, p)| *field = text(p));
                let mut extra = extra.iter();
                fields[Field::Extra as usize] = extra_field(columns, |_| extra.next().and_then(|p| text(*p)));
                Ok(fields)
            }
            Err(e) => match e.kind() {
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                    let reason = format!("{len} columns where the header has {expected_len}; is a quote missing?");
                    Err(Unusable::new(ProblemKind::BrokenRow, reason))
                }
                csv::ErrorKind::Io(_) => return Err(readable(e)),
                _ => Err("cannot be read as CSV".to_string().into()),
            },
        };
        records += 1;
        take(line_of_next(), fields);
    }
    ensure!(records > 0, "has a header and no rows");
    Ok(())
}

/// The cells of the columns `names`, of which one is enough, in each record with the line that it begins on.
///
/// # Errors
/// As [`positions`]; the line of a quote that is not closed where its field ends, or of a record that is longer or
/// shorter than the header; no cell is shown.
pub(super) fn cells<const N: usize>(
    mut source: impl BufRead,
    names: [&str; N],
) -> Result<Vec<(u64, [Option<String>; N])>> {
    let dialect = Dialect::sniff(source.fill_buf()?, &names, None);
    let starts = Rc::new(RefCell::new(VecDeque::new()));
    let mut reader = dialect.reader(Checked::new(source, dialect, Rc::clone(&starts)));
    let header = reader.headers().map_err(readable)?;
    let known: Vec<&str> = header.iter().map(str::trim).collect();
    let positions = positions(&known, names).with_context(|| format!("line 1, cut at {}", dialect.separator_name()))?;
    let line_of_next = || starts.borrow_mut().pop_front().unwrap_or_default();
    line_of_next();
    let mut rows = Vec::new();
    for record in reader.into_records() {
        let line = line_of_next();
        let record = record.map_err(|e| readable_on(line, e))?;
        rows.push((line, positions.map(|at| at.and_then(|at| record.get(at)).and_then(filled))));
    }
    Ok(rows)
}

/// The whole CSV with `new` columns set, added where they are not there; its separator stays.
fn with_columns(mut source: impl BufRead, columns: &Columns, new: &[NewColumn]) -> Result<String> {
    let dialect = Dialect::of_manifest(source.fill_buf()?, columns);
    let starts = Rc::new(RefCell::new(VecDeque::new()));
    let mut reader = dialect.reader(Checked::new(source, dialect, Rc::clone(&starts)));
    let mut header = reader.headers().map_err(readable)?.clone();
    let places = |column: &NewColumn| header.iter().position(|h| h.trim() == column.name);
    let places: Vec<Option<usize>> = new.iter().map(places).collect();
    let mut writer = csv::WriterBuilder::new().delimiter(dialect.separator).from_writer(Vec::new());
    let added = new.iter().zip(&places).filter(|(_, at)| at.is_none());
    added.for_each(|(column, _)| header.push_field(column.name));
    writer.write_record(&header)?;
    starts.borrow_mut().pop_front();
    for record in reader.records() {
        let line = starts.borrow_mut().pop_front().unwrap_or_default();
        let record = record.map_err(|e| readable_on(line, e))?;
        let mut fields: Vec<&str> = record.iter().collect();
        for (column, at) in new.iter().zip(&places) {
            match (*at, (column.value)(line)) {
                (Some(at), Some(value)) => fields[at] = value,
                (None, value) => fields.push(value.unwrap_or_default()),
                (Some(_), None) => {}
            }
        }
        writer.write_record(fields)?;
    }
    Ok(String::from_utf8(writer.into_inner().map_err(|e| anyhow!("{e}"))?)?)
}

/// What [`Checked`] found stands in the error as text.
fn readable(error: csv::Error) -> anyhow::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(e) => anyhow!("{e}"),
        _ => anyhow!("cannot be read as CSV"),
    }
}

/// [`readable`] of the record that begins on `line`: the reader's own count is another one where lines end in CRLF.
fn readable_on(line: u64, error: csv::Error) -> anyhow::Error {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            anyhow!("line {line}: {len} columns where the header has {expected_len}; is a quote missing?")
        }
        _ => readable(error),
    }
}

/// Longest row; no report is longer.
const MOST_RECORD: usize = 16 << 20;
/// Longest header.
const MOST_HEADER: usize = 1 << 20;

/// The separator under which the first line of a table that is not blank has the most of the `wanted` columns, else the
/// most columns.
pub(in crate::data) fn separator_of(sample: &[u8], quote: u8, wanted: &[&str]) -> u8 {
    let sample = sample.strip_prefix(text::MARK).unwrap_or(sample);
    let first_line = sample.split(|&b| b == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let score = |separator: u8| {
        let mut reader = csv::ReaderBuilder::new().delimiter(separator).quote(quote).from_reader(first_line);
        let header: Vec<String> =
            reader.headers().map(|h| h.iter().map(|f| f.trim().to_string()).collect()).unwrap_or_default();
        (wanted.iter().filter(|name| header.iter().any(|cell| cell == *name)).count(), header.len())
    };
    // Earlier ones win ties.
    [b',', b'\t', b';', b'|'].into_iter().rev().max_by_key(|&s| score(s)).unwrap_or(b',')
}

/// How a CSV is written.
#[derive(Clone, Copy)]
struct Dialect {
    separator: u8,
    quote: u8,
    escape: Option<u8>,
}

impl Dialect {
    /// The separator of [`separator_of`] where none is given; the quote and escape that the first bytes use.
    fn sniff(sample: &[u8], wanted: &[&str], separator: Option<u8>) -> Self {
        let sample = sample.strip_prefix(text::MARK).unwrap_or(sample);
        let quote = if !sample.contains(&b'"') && sample.starts_with(b"'") { b'\'' } else { b'"' };
        let separator = separator.unwrap_or_else(|| separator_of(sample, quote, wanted));
        // A backslash before a quote that ends its field escapes nothing, and an empty quoted field is no doubled
        // quote.
        let ends = |b: Option<&u8>| b.is_none_or(|&b| b == separator || b == b'\r' || b == b'\n');
        let pairs = |first: u8| {
            sample.windows(2).enumerate().filter(move |(_, w)| w[0] == first && w[1] == quote).map(|(i, _)| i)
        };
        let escapes = pairs(b'\\').filter(|i| !ends(sample.get(i + 2))).count();
        let before = |i: usize| if i == 0 { None } else { sample.get(i - 1) };
        let doubled = pairs(quote).filter(|&i| !(ends(before(i)) && ends(sample.get(i + 2)))).count();
        Self { separator, quote, escape: (escapes > 0 && doubled == 0).then_some(b'\\') }
    }

    fn of_manifest(sample: &[u8], columns: &Columns) -> Self {
        Self::sniff(sample, &[&columns.image, &columns.report], columns.separator)
    }

    fn reader<R: Read>(&self, source: R) -> csv::Reader<R> {
        csv::ReaderBuilder::new()
            .delimiter(self.separator)
            .quote(self.quote)
            .escape(self.escape)
            .double_quote(self.escape.is_none())
            .buffer_capacity(1 << 16)
            .from_reader(source)
    }

    fn separator_name(&self) -> &'static str {
        match self.separator {
            b'\t' => "tabs",
            b';' => "semicolons",
            b'|' => "bars",
            _ => "commas",
        }
    }
}

/// Where a byte stands.
#[derive(Clone, Copy, PartialEq)]
enum At {
    /// Before a record; line feeds here are blank lines.
    RecordStart,
    FieldStart,
    /// In a field without quotes.
    Bare,
    /// In quotes, which opened on this line.
    Quoted(u64),
    /// After an escape within quotes that opened on this line.
    Escaped(u64),
    /// After a quote within quotes: either their end or half of a doubled one.
    Closing(u64),
}

/// Passes bytes on and watches them: text that is not UTF-8 and quotes that are not closed where their field ends are
/// errors, and the line of every record's start is noted for the reader, whose own count stands elsewhere.
struct Checked<R> {
    source: R,
    dialect: Dialect,
    at: At,
    line: u64,
    /// Bytes of this record so far, and most that one may have.
    record: usize,
    most: usize,
    starts: Rc<RefCell<VecDeque<u64>>>,
    /// The first bytes of a character whose rest has not come yet.
    partial: Vec<u8>,
}

/// Passes a published table on and refuses quotes that swallow rows: such as are never closed, or are followed by text
/// on another line than they open on. Text behind a quote on one line is let be, as the csv crate reads it.
pub(in crate::data) struct Unswallowed<R>(Checked<R>);

impl<R: BufRead> Unswallowed<R> {
    pub fn new(source: R, separator: u8) -> Self {
        let dialect = Dialect { separator, quote: b'"', escape: None };
        Self(Checked { most: usize::MAX, ..Checked::new(source, dialect, Rc::default()) })
    }
}

impl<R: BufRead> Read for Unswallowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(checked) = self;
        let count = checked.source.read(buffer)?;
        checked.watch(&buffer[..count], true).map_err(io::Error::other)?;
        checked.starts.borrow_mut().clear();
        Ok(count)
    }
}

impl<R: BufRead> Checked<R> {
    fn new(source: R, dialect: Dialect, starts: Rc<RefCell<VecDeque<u64>>>) -> Self {
        let (at, most) = (At::RecordStart, MOST_HEADER);
        Self { source, dialect, at, line: 1, record: 0, most, starts, partial: Vec::new() }
    }

    /// `lenient`: text behind a quote on one line is none of its business, nor is the length of rows.
    fn watch(&mut self, bytes: &[u8], lenient: bool) -> Result<(), String> {
        const HINT: &str = "double quotes that belong to the text";
        let Dialect { separator, quote, escape } = self.dialect;
        for &byte in bytes {
            let ends_line = byte == b'\r' || byte == b'\n';
            let after_field = if ends_line { At::RecordStart } else { At::FieldStart };
            let ends_field = byte == separator || ends_line;
            if self.at == At::RecordStart && !ends_line {
                self.starts.borrow_mut().push_back(self.line);
            }
            self.record += 1;
            if self.record > self.most {
                let (line, most) = (self.line, self.most);
                return Err(format!("line {line}: a row is longer than {most} bytes; is a quote missing?"));
            }
            self.at = match self.at {
                At::RecordStart if ends_line => At::RecordStart,
                At::RecordStart | At::FieldStart if byte == quote => At::Quoted(self.line),
                At::RecordStart | At::FieldStart | At::Bare if ends_field => after_field,
                At::RecordStart | At::FieldStart | At::Bare => At::Bare,
                At::Quoted(start) if Some(byte) == escape => At::Escaped(start),
                At::Quoted(start) if byte == quote => At::Closing(start),
                At::Quoted(start) | At::Escaped(start) => At::Quoted(start),
                At::Closing(_) if ends_field => after_field,
                At::Closing(start) if byte == quote && escape.is_none() => At::Quoted(start),
                At::Closing(start) if lenient && start == self.line => At::Bare,
                At::Closing(start) => {
                    let line = self.line;
                    return Err(format!(
                        "line {start}: a quote opens here and is followed by text on line {line}; {HINT}"
                    ));
                }
            };
            if self.at == At::RecordStart {
                // The first one is the header.
                (self.record, self.most) = (0, if lenient { usize::MAX } else { MOST_RECORD });
            }
            self.line += u64::from(byte == b'\n');
        }
        match self.at {
            At::Quoted(start) | At::Escaped(start) if bytes.is_empty() => {
                Err(format!("line {start}: a quote opens here and is never closed; {HINT}"))
            }
            _ => Ok(()),
        }
    }

    /// `line` is that of the first of `bytes`.
    fn check_utf8(&mut self, bytes: &[u8], line: u64) -> Result<(), String> {
        let joined;
        let all = if self.partial.is_empty() {
            bytes
        } else {
            joined = [&self.partial, bytes].concat();
            self.partial.clear();
            &joined
        };
        match std::str::from_utf8(all) {
            Ok(_) => Ok(()),
            Err(e) if e.error_len().is_none() && !bytes.is_empty() => {
                self.partial = all[e.valid_up_to()..].to_vec();
                Ok(())
            }
            Err(e) => Err(text::not_utf8(all, e.valid_up_to(), line)),
        }
    }
}

impl<R: BufRead> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let bytes = &buffer[..count];
        let line = self.line;
        self.check_utf8(bytes, line).and_then(|()| self.watch(bytes, false)).map_err(io::Error::other)?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_before_the_header_hide_no_separator() {
        for blank in ["", "\n", "\r\n\r\n"] {
            assert_eq!(separator_of(format!("{blank}image;report\n").as_bytes(), b'"', &["image"]), b';', "{blank:?}");
        }
    }

    #[test]
    fn a_broken_row_is_told_by_its_line_whatever_lines_end_in() {
        for end in ["\n", "\r\n", "\r\n\r\n"] {
            let text = ["image,report", "a.png,x", "\"b.png\",\"two\r\nlines\"", "zxqv", "c.png,y", ""].join(end);
            let line = text[..text.find("zxqv").unwrap()].matches('\n').count() + 1;
            let told = with_columns(text.as_bytes(), &Columns::default(), &[]).unwrap_err().to_string();
            assert_eq!(told, format!("line {line}: 1 columns where the header has 2; is a quote missing?"));
        }
    }
}
