//! A manifest's whole text with one column more: what `data split` writes.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::manifest::Columns;
use super::{csv, text};

/// The manifest at `path` with column `name` set to `value(line)` where that is something; all else as it was. CSV comes
/// back with its own separator, JSONL as JSONL.
///
/// # Errors
/// It is neither, or cannot be read.
pub fn with_column<'a>(
    path: &Path,
    columns: &Columns,
    name: &str,
    value: &dyn Fn(u64) -> Option<&'a str>,
) -> Result<String> {
    let place = || path.display().to_string();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    if matches!(extension.as_str(), "parquet" | "tar") || path.is_dir() {
        bail!("{}: splits are written into CSV, TSV and JSONL manifests only; make one first", path.display());
    }
    let mut source = text::open(path).with_context(place)?;
    let named = matches!(extension.as_str(), "jsonl" | "ndjson" | "json");
    if !named && !std::io::BufRead::fill_buf(&mut source)?.trim_ascii_start().starts_with(b"{") {
        return csv::with_column(source, columns, name, value).with_context(place);
    }
    let mut text = String::new();
    for (i, line) in std::io::BufRead::lines(source).enumerate() {
        let line = line.with_context(place)?;
        if line.trim().is_empty() {
            continue;
        }
        let number = i as u64 + 1;
        let mut object: serde_json::Map<String, Value> =
            serde_json::from_str(&line).with_context(|| format!("{}:{number}", path.display()))?;
        if let Some(value) = value(number) {
            object.insert(name.to_string(), value.into());
        }
        text.push_str(&Value::Object(object).to_string());
        text.push('\n');
    }
    Ok(text)
}
