//! CSV as people write it: the separator, quote and escape are read off the file, and a quote that would swallow rows is
//! an error instead.

use std::collections::HashSet;

use anyhow::{Result, bail, ensure};

use super::manifest::{Columns, Record, filled, missing_column, names};

/// All records of a CSV with a header.
pub(super) fn read(text: &str, columns: &Columns) -> Result<Vec<Record>> {
    let dialect = Dialect::sniff(text, columns);
    dialect.check_quotes(text)?;
    let mut reader = dialect.reader(text);
    let header: Vec<String> = reader.headers()?.iter().map(|h| h.trim().to_string()).collect();
    let known: Vec<&str> = header.iter().map(String::as_str).collect();
    let find = |name: &str| header.iter().position(|h| h == name);
    for required in [&columns.image, &columns.report] {
        if find(required).is_none() {
            bail!("line 1, cut at {}: {}", dialect.separator_name(), missing_column(required, &known));
        }
    }
    let mut seen = HashSet::new();
    for name in header.iter().filter(|h| names(columns).contains(&h.as_str())) {
        ensure!(seen.insert(name), "line 1: there are two columns {name:?}; rename one");
    }
    let positions = names(columns).map(find);
    let mut lines = Lines { text: text.as_bytes(), at: 0, line: 1 };
    let mut records = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) => {
                let line = lines.of_record(record.position());
                let fields = positions.map(|p| p.and_then(|p| record.get(p)).and_then(filled));
                records.push(Record { line, fields: Ok(fields) });
            }
            Err(e) => {
                let line = lines.of_record(e.position());
                let reason = match e.kind() {
                    csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                        format!("{len} columns where the header has {expected_len}; is a quote missing?")
                    }
                    _ => "cannot be read as CSV".to_string(),
                };
                records.push(Record { line, fields: Err(reason) });
            }
        }
    }
    ensure!(!records.is_empty(), "has a header and no rows");
    Ok(records)
}

/// Counts lines up to records. The reader's own count stands before the line feed of the record before, and before
/// blank lines.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn of_record(&mut self, position: Option<&csv::Position>) -> u64 {
        let mut start = position.map_or(self.at, |p| p.byte() as usize).min(self.text.len());
        start += self.text[start..].iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        let passed = &self.text[self.at.min(start)..start];
        self.line += passed.iter().filter(|&&b| b == b'\n').count() as u64;
        self.at = start;
        self.line
    }
}

/// How a CSV is written.
struct Dialect {
    separator: u8,
    quote: u8,
    escape: Option<u8>,
}

impl Dialect {
    /// The separator under which the header has both columns, else the most columns; the quote and escape that the
    /// first 64 KiB use.
    fn sniff(text: &str, columns: &Columns) -> Self {
        let sample = &text.as_bytes()[..text.len().min(1 << 16)];
        let first_line = text.lines().next().unwrap_or_default();
        let quote = if !sample.contains(&b'"') && first_line.starts_with('\'') { b'\'' } else { b'"' };
        let score = |separator: u8| {
            let mut reader = Self { separator, quote, escape: None }.reader(first_line);
            let header: Vec<String> =
                reader.headers().map(|h| h.iter().map(|f| f.trim().to_string()).collect()).unwrap_or_default();
            let required = [&columns.image, &columns.report].iter().filter(|c| header.contains(c)).count();
            (required, header.len())
        };
        let separator = columns.separator.unwrap_or_else(|| {
            // Earlier ones win ties.
            [b',', b'\t', b';', b'|'].into_iter().rev().max_by_key(|&s| score(s)).unwrap_or(b',')
        });
        // A backslash before a quote that ends its field escapes nothing, and an empty quoted field is no doubled quote.
        let ends = |b: Option<&u8>| b.is_none_or(|&b| b == separator || b == b'\r' || b == b'\n');
        let pairs = |first: u8| {
            sample.windows(2).enumerate().filter(move |(_, w)| w[0] == first && w[1] == quote).map(|(i, _)| i)
        };
        let escapes = pairs(b'\\').filter(|i| !ends(sample.get(i + 2))).count();
        let before = |i: usize| if i == 0 { None } else { sample.get(i - 1) };
        let doubled = pairs(quote).filter(|&i| !(ends(before(i)) && ends(sample.get(i + 2)))).count();
        Self { separator, quote, escape: (escapes > 0 && doubled == 0).then_some(b'\\') }
    }

    fn reader<'a>(&self, text: &'a str) -> csv::Reader<&'a [u8]> {
        csv::ReaderBuilder::new()
            .delimiter(self.separator)
            .quote(self.quote)
            .escape(self.escape)
            .double_quote(self.escape.is_none())
            .from_reader(text.as_bytes())
    }

    fn separator_name(&self) -> &'static str {
        match self.separator {
            b'\t' => "tabs",
            b';' => "semicolons",
            b'|' => "bars",
            _ => "commas",
        }
    }

    /// A quote that is not closed where its field ends swallows rows, and the reader says nothing.
    fn check_quotes(&self, text: &str) -> Result<()> {
        const HINT: &str = "double quotes that belong to the text";
        let (mut line, mut opened) = (1u64, None::<u64>);
        let mut at_start = true;
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            let ends_field = byte == self.separator || byte == b'\r' || byte == b'\n';
            match opened {
                Some(_) if Some(byte) == self.escape => drop(bytes.next()),
                Some(_) if byte == self.quote && self.escape.is_none() && bytes.peek() == Some(&self.quote) => {
                    bytes.next();
                }
                Some(start) if byte == self.quote => {
                    let next = bytes.peek().copied();
                    let fine = next.is_none_or(|b| b == self.separator || b == b'\r' || b == b'\n');
                    ensure!(fine, "line {start}: a quote opens here and is followed by text on line {line}; {HINT}");
                    opened = None;
                }
                None if byte == self.quote && at_start => opened = Some(line),
                _ => {}
            }
            at_start = opened.is_none() && ends_field;
            line += u64::from(byte == b'\n');
        }
        match opened {
            Some(start) => bail!("line {start}: a quote opens here and is never closed; {HINT}"),
            None => Ok(()),
        }
    }
}
