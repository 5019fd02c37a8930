//! Manifests: one row an image–report pair, in CSV, TSV or JSONL.
//!
//! Row numbers in messages are line numbers of the file. Reports and patients' numbers never appear in a message.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rayon::prelude::*;
use serde_json::Value;

use super::csv_file;
use crate::config::DataConfig;
use crate::error::did_you_mean;

/// Which columns hold what, and how the file is cut into columns.
#[derive(Clone, Debug)]
pub struct Columns {
    /// Image paths.
    pub image: String,
    /// Reports.
    pub report: String,
    /// Patients; used if there.
    pub patient_id: String,
    /// Studies; used if there.
    pub study_id: String,
    /// Splits; used if there.
    pub split: String,
    /// Labels; used if there.
    pub label: String,
    /// `None` = read it off the header.
    pub separator: Option<u8>,
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            image: "image".into(),
            report: "report".into(),
            patient_id: "patient_id".into(),
            study_id: "study_id".into(),
            split: "split".into(),
            label: "label".into(),
            separator: None,
        }
    }
}

impl From<&DataConfig> for Columns {
    fn from(c: &DataConfig) -> Self {
        Self {
            image: c.image_column.clone(),
            report: c.report_column.clone(),
            patient_id: c.patient_id_column.clone(),
            study_id: c.study_id_column.clone(),
            split: c.split_column.clone(),
            label: c.label_column.clone(),
            separator: c.separator,
        }
    }
}

/// One image–report pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Line of the manifest, from 1.
    pub line: u64,
    /// Where the image is.
    pub image: PathBuf,
    /// The clinical text.
    pub report: String,
    /// Patient, where the manifest says.
    pub patient_id: Option<String>,
    /// Study, where the manifest says.
    pub study_id: Option<String>,
    /// Split, where the manifest says.
    pub split: Option<String>,
    /// Label, where the manifest says.
    pub label: Option<String>,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// Line of the manifest.
    pub line: u64,
    /// What is wrong, without the report or patient.
    pub reason: String,
}

/// All usable rows of a manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The file.
    pub path: PathBuf,
    /// Usable rows in the file's order.
    pub rows: Vec<Row>,
    /// Unusable rows in the file's order.
    pub problems: Vec<RowProblem>,
}

impl Manifest {
    /// Reads the manifest and looks whether each image is there. Relative image paths start at `image_root`, or at the
    /// manifest's folder.
    ///
    /// # Errors
    /// The file cannot be read, is not UTF-8, or lacks the image or report column. Bad rows are not errors here: they
    /// are in `problems`.
    pub fn open(path: &Path, columns: &Columns, image_root: Option<&Path>) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("manifest {}", path.display()))?;
        let text = decode(&bytes).with_context(|| format!("manifest {}", path.display()))?;
        let records = if is_jsonl(path, text) { read_jsonl(text, columns) } else { csv_file::read(text, columns) };
        let records = records.with_context(|| format!("manifest {}", path.display()))?;
        let root = image_root.or(path.parent()).unwrap_or(Path::new(""));
        let checked: Vec<Result<Row, RowProblem>> = records.into_par_iter().map(|r| r.check(root)).collect();
        let mut manifest = Self { path: path.to_path_buf(), rows: Vec::new(), problems: Vec::new() };
        for row in checked {
            match row {
                Ok(row) => manifest.rows.push(row),
                Err(problem) => manifest.problems.push(problem),
            }
        }
        Ok(manifest)
    }

    /// Only the rows of one split; all rows where no row has a split.
    pub fn only_split(mut self, split: &str) -> Self {
        if self.has_splits() {
            self.rows.retain(|r| r.split.as_deref() == Some(split));
        }
        self
    }

    /// Whether any row names a split.
    pub fn has_splits(&self) -> bool {
        self.rows.iter().any(|r| r.split.is_some())
    }

    /// The names of all splits, in the order of their first row.
    pub fn splits(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        self.rows.iter().filter_map(|r| r.split.as_deref()).filter(|s| seen.insert(*s)).collect()
    }

    /// `file:line: reason`, for messages.
    pub fn describe(&self, problem: &RowProblem) -> String {
        format!("{}:{}: {}", self.path.display(), problem.line, problem.reason)
    }
}

/// A row as read, before its image is looked for.
pub(super) struct Record {
    pub line: u64,
    /// image, report, patient_id, study_id, split, label; empty ones are `None`.
    pub fields: Result<[Option<String>; 6], String>,
}

impl Record {
    fn check(self, root: &Path) -> Result<Row, RowProblem> {
        let line = self.line;
        let problem = |reason: String| RowProblem { line, reason };
        let [image, report, patient_id, study_id, split, label] = self.fields.map_err(problem)?;
        let image = image.ok_or_else(|| problem("no image path".into()))?;
        let report = report.ok_or_else(|| problem("the report is empty".into()))?;
        if report.starts_with("version https://git-lfs") {
            return Err(problem("the report is a Git LFS pointer; run `git lfs pull` where it came from".into()));
        }
        let path = root.join(&image);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Row { line, image: path, report, patient_id, study_id, split, label }),
            Ok(_) => Err(problem(format!("image {}: is not a file", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Err(problem(format!("image {}: there is no such file; check data.image_root", path.display())))
            }
            Err(e) => Err(problem(format!("image {}: {e}", path.display()))),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<&str> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        bail!("is UTF-16; save it as UTF-8 (in Excel: \"CSV UTF-8\")");
    }
    if bytes.starts_with(b"PK\x03\x04") {
        bail!("is a zip or Excel file; save the sheet as \"CSV UTF-8\"");
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        anyhow::anyhow!("line {line} is not UTF-8 (GB18030 or Latin-1, perhaps); convert the file to UTF-8")
    })?;
    if text.starts_with("version https://git-lfs") {
        bail!("is a Git LFS pointer, not the manifest; run `git lfs pull`");
    }
    Ok(text)
}

fn is_jsonl(path: &Path, text: &str) -> bool {
    let named = path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson" || e == "json");
    named || text.trim_start().starts_with('{')
}

pub(super) fn filled(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

pub(super) fn names(c: &Columns) -> [&str; 6] {
    [&c.image, &c.report, &c.patient_id, &c.study_id, &c.split, &c.label]
}

fn read_jsonl(text: &str, columns: &Columns) -> Result<Vec<Record>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let records: Vec<Record> =
        lines.map(|(i, line)| Record { line: i as u64 + 1, fields: json_fields(line, columns) }).collect();
    if records.is_empty() {
        bail!("has no rows");
    }
    Ok(records)
}

fn json_fields(line: &str, columns: &Columns) -> Result<[Option<String>; 6], String> {
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(line).map_err(|e| format!("not a JSON object (column {})", e.column()))?;
    let mut fields: [Option<String>; 6] = Default::default();
    for (field, name) in fields.iter_mut().zip(names(columns)) {
        *field = match object.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(s)) => filled(s),
            Some(Value::Number(n)) => Some(n.to_string()),
            Some(_) => return Err(format!("{name:?} is neither text nor a number")),
        };
    }
    for (required, field) in [(&columns.image, &fields[0]), (&columns.report, &fields[1])] {
        if field.is_none() && !object.contains_key(required) {
            let known: Vec<&str> = object.keys().map(String::as_str).collect();
            return Err(missing_column(required, &known));
        }
    }
    Ok(fields)
}

pub(super) fn missing_column(name: &str, known: &[&str]) -> String {
    let hint = match did_you_mean(name, known.iter().copied()) {
        Some(close) => format!("did you mean {close:?}?"),
        None => "name it with data.image_column or data.report_column, or pick the separator with data.separator"
            .to_string(),
    };
    format!("there is no column {name:?}, only {}; {hint}", known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str, text: &[u8]) -> Result<Manifest> {
        let dir = tempfile::tempdir().unwrap();
        for image in ["a.png", "b.png", "片.png"] {
            std::fs::write(dir.path().join(image), b"x").unwrap();
        }
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Manifest::open(&path, &Columns::default(), None)
    }

    fn message(name: &str, text: &[u8]) -> String {
        let e = open(name, text).unwrap_err();
        let line = crate::error::one_line(&e);
        line.split_once(name).unwrap().1.to_string()
    }

    #[test]
    fn every_dialect_gives_the_same_rows() {
        let quoted = "a, \"b\"\nc";
        let files: [(&str, Vec<u8>); 7] = [
            ("comma.csv", b"image,report,split\na.png,\"a, \"\"b\"\"\nc\",val\n".to_vec()),
            ("bom.csv", b"\xef\xbb\xbfimage,report,split\r\na.png,\"a, \"\"b\"\"\nc\",val\r\n".to_vec()),
            ("tab.csv", b"image\treport\tsplit\na.png\t\"a, \"\"b\"\"\nc\"\tval\n".to_vec()),
            ("semicolon.csv", b"report;image;split\n\"a, \"\"b\"\"\nc\";a.png;val".to_vec()),
            ("escape.csv", b"image,report,split\na.png,\"a, \\\"b\\\"\nc\",val\n".to_vec()),
            ("rows.jsonl", b"{\"image\":\"a.png\",\"report\":\"a, \\\"b\\\"\\nc\",\"split\":\"val\"}\n\n".to_vec()),
            ("pipe.txt", b"x|report|split|image\n|\"a, \"\"b\"\"\nc\"|val|a.png\n".to_vec()),
        ];
        for (name, text) in files {
            let m = open(name, &text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert_eq!(m.problems, [], "{name}");
            assert_eq!(m.rows.len(), 1, "{name}");
            assert_eq!(m.rows[0].report, quoted, "{name}");
            assert_eq!(m.rows[0].split.as_deref(), Some("val"), "{name}");
            assert!(m.rows[0].image.ends_with("a.png"), "{name}");
        }
    }

    #[test]
    fn chinese_names_and_reports() {
        let m = open("中文.csv", "image,report\n片.png,右下肺见斑片影。\n".as_bytes()).unwrap();
        assert_eq!(m.rows[0].report, "右下肺见斑片影。");
    }

    #[test]
    fn lines_are_counted_whatever_ends_them() {
        let text = b"image,report\r\na.png,\"two\r\nlines\"\r\n\r\n\r\nb.png,\r\na.png,a nodule 5\" wide\r\n\r\n";
        let m = open("crlf.csv", text).unwrap();
        assert_eq!(m.rows.iter().map(|r| r.line).collect::<Vec<_>>(), [2, 7]);
        assert_eq!(m.rows[1].report, "a nodule 5\" wide");
        assert_eq!(m.problems.iter().map(|p| p.line).collect::<Vec<_>>(), [6]);
    }

    #[test]
    fn a_backslash_is_an_escape_only_where_it_must_be() {
        let rows = |text: &[u8]| open("x.csv", text).unwrap().rows;
        // A quoted field that ends in a backslash.
        assert_eq!(rows(b"image,note,report\na.png,\"C:\\dir\\\",one\nb.png,\"\",two\n").len(), 2);
        // Escapes beside an empty quoted field.
        let escaped = rows(b"image,note,report\na.png,\"\",\"a \\\"sign\\\" here\"\n");
        assert_eq!(escaped[0].report, "a \"sign\" here");
    }

    #[test]
    fn bad_rows_are_named_by_line() {
        let m = open("x.csv", b"image,report\na.png,fine\nb.png,\nmissing.png,text\na.png\n").unwrap();
        assert_eq!(m.rows.len(), 1);
        let seen: Vec<(u64, &str)> = m.problems.iter().map(|p| (p.line, p.reason.as_str())).collect();
        assert_eq!(seen[0], (3, "the report is empty"));
        assert_eq!(seen[1].0, 4);
        assert!(seen[1].1.ends_with("missing.png: there is no such file; check data.image_root"), "{}", seen[1].1);
        assert_eq!(seen[2], (5, "1 columns where the header has 2; is a quote missing?"));
    }

    #[test]
    fn broken_files_say_what_is_wrong() {
        assert_eq!(
            message("a.csv", b"image,Report\na.png,x\n"),
            ": line 1, cut at commas: there is no column \"report\", only image, Report; did you mean \"Report\"?"
        );
        assert_eq!(message("b.csv", b"image,report\n"), ": has a header and no rows");
        assert_eq!(
            message("c.csv", b"image,report\na.png,\xb0\xa1\n"),
            ": line 2 is not UTF-8 (GB18030 or Latin-1, perhaps); convert the file to UTF-8"
        );
        assert_eq!(
            message("d.csv", b"image,report\na.png,\"open\nb.png,x\n"),
            ": line 2: a quote opens here and is never closed; double quotes that belong to the text"
        );
        assert_eq!(
            message("g.csv", b"image,report\na.png,\"open\nb.png,two\na.png,\"closed\"\n"),
            ": line 2: a quote opens here and is followed by text on line 4; double quotes that belong to the text"
        );
        assert_eq!(
            message("h.csv", b"image,report,report\na.png,x,y\n"),
            ": line 1: there are two columns \"report\"; rename one"
        );
        assert!(message("e.csv", b"\xff\xfei\0").contains("UTF-16"));
        assert!(message("f.csv", b"version https://git-lfs.github.com/spec/v1\n").contains("Git LFS pointer"));
    }
}
