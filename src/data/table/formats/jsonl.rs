//! JSON objects, one a line.

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::json::{Object, object, row_fields};
use super::text;
use crate::data::table::columns::Columns;
use crate::data::table::fields::Take;
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
        let (mut bytes, mut line, mut records) = (Vec::new(), 0u64, 0u64);
        while text::next_line(&mut self.0, &mut bytes).with_context(|| format!("line {}", line + 1))? {
            line += 1;
            let text = match std::str::from_utf8(&bytes) {
                Ok(text) => text.trim(),
                Err(e) => bail!("{}", text::not_utf8(&bytes, e.valid_up_to(), line)),
            };
            if !text.is_empty() {
                take(line, object(text).and_then(|object| row_fields(&object, columns)).map_err(Into::into));
                records += 1;
            }
        }
        if records == 0 {
            bail!("has no rows");
        }
        Ok(())
    }
}
