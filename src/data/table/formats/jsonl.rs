//! JSON objects, one a line.

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::json::{Object, object, row_fields};
use super::text;
use crate::data::table::columns::{Columns, positions};
use crate::data::table::fields::{Take, filled};
use crate::data::table::format::{Format, InFolder, NewColumn, Table};

/// The format.
pub(super) struct Jsonl;

impl Format for Jsonl {
    fn names(&self) -> &'static [&'static str] {
        &["JSONL"]
    }

    fn claims(&self, ending: &str, head: &[u8]) -> bool {
        matches!(ending, "jsonl" | "ndjson" | "json") || text::starts_with(head, b"{")
    }

    fn in_folder(&self) -> InFolder {
        InFolder { manifests: &["metadata.jsonl"], parts: None }
    }

    fn open(&self, path: &Path, _: &Columns) -> Result<Box<dyn Table>> {
        Ok(Box::new(Lines(Box::new(text::open(path)?))))
    }

    fn sets_columns(&self) -> bool {
        true
    }

    fn set_columns(&self, path: &Path, _: &Columns, new: &[NewColumn]) -> Result<String> {
        let mut written = String::new();
        let (mut source, mut bytes, mut number) = (text::open(path)?, Vec::new(), 0);
        while text::next_line(&mut source, &mut bytes)? {
            number += 1;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let mut object: Object = serde_json::from_slice(&bytes).with_context(|| format!("line {number}"))?;
            for column in new {
                if let Some(value) = (column.value)(number) {
                    object.insert(column.name.to_string(), value.into());
                }
            }
            written.push_str(&Value::Object(object).to_string());
            written.push('\n');
        }
        Ok(written)
    }
}

struct Lines(Box<dyn BufRead>);

impl Table for Lines {
    fn read(mut self: Box<Self>, columns: &Columns, take: &mut Take) -> Result<()> {
        let mut records = 0u64;
        each_line(&mut self.0, |line, text| {
            take(line, object(text).and_then(|object| row_fields(&object, columns)).map_err(Into::into));
            records += 1;
            Ok(())
        })?;
        if records == 0 {
            bail!("has no rows");
        }
        Ok(())
    }
}

/// Hands each line that is not blank to `take`, with its number.
fn each_line(source: &mut dyn BufRead, mut take: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    let (mut bytes, mut line) = (Vec::new(), 0u64);
    while text::next_line(source, &mut bytes).with_context(|| format!("line {}", line + 1))? {
        line += 1;
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text.trim(),
            Err(e) => bail!("{}", text::not_utf8(&bytes, e.valid_up_to(), line)),
        };
        if !text.is_empty() {
            take(line, text)?;
        }
    }
    Ok(())
}

/// The texts that objects have under `names`, of which one is enough, each with its line.
///
/// # Errors
/// As [`positions`]; a line that is no object, or something else than a text or a number under a name.
pub(super) fn cells<const N: usize>(
    source: &mut dyn BufRead,
    names: [&str; N],
) -> Result<Vec<(u64, [Option<String>; N])>> {
    let mut rows = Vec::new();
    each_line(source, |line, text| {
        let object = object(text).map_err(|why| anyhow!("line {line}: {why}; needed is one a line"))?;
        let known: Vec<&str> = object.keys().map(String::as_str).collect();
        positions(&known, names).with_context(|| format!("line {line}"))?;
        let mut cells = [const { None }; N];
        for (cell, name) in cells.iter_mut().zip(names) {
            *cell = match object.get(name) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => filled(text),
                Some(Value::Number(number)) => Some(number.to_string()),
                Some(_) => bail!("line {line}: {name:?} is neither text nor a number"),
            };
        }
        rows.push((line, cells));
        Ok(())
    })?;
    Ok(rows)
}
