//! What an index is of.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::content::VectorContent;
use super::identity::Origins;
use crate::config::Precision;
use crate::data::table::why_not_utf8;
use crate::data::{BagBy, BagColumns, Columns, Manifest, OnBadImage, ReportPolicy, Row};
use crate::fs::unnamed_up_to;
use crate::session::RowSource;

/// Longest file of texts: 1 GiB.
pub(super) const MOST_TEXT: u64 = 1 << 30;

/// What an index is of, kept in it so that `search` can name its rows: where manifest and model are, and hashes. No
/// reports, and names of images only if asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IndexSource {
    /// Folder or hub id of the model.
    pub model: String,
    /// Where the manifest is, if it is of one.
    pub manifest: Option<PathBuf>,
    /// Folder that its image paths start at.
    pub image_root: Option<PathBuf>,
    /// The rows of this split only.
    pub split: Option<String>,
    /// The manifest's columns.
    pub columns: ColumnNames,
    /// What each of its rows was made from; of an index in shards, each shard says.
    #[serde(flatten)]
    pub origins: Origins,
    /// Digest of the model's files, or its commit; older indexes do not say.
    #[serde(default)]
    pub model_content: Option<String>,
    /// In which type products were worked out; older indexes, which do not say, had them in f32.
    #[serde(default = "f32")]
    pub precision: Precision,
    /// Where the text file is, if it is of one.
    pub texts: Option<PathBuf>,
}

/// What an index in one file says of itself.
#[derive(Serialize, Deserialize)]
pub(super) struct About<S> {
    #[serde(flatten)]
    pub source: S,
    /// Older indexes do not say.
    #[serde(default)]
    pub vectors: Option<VectorContent>,
}

/// Names of a manifest's columns.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ColumnNames {
    pub image_column: String,
    pub report_column: String,
    pub patient_id_column: String,
    // Older indexes were written without this one and the last.
    #[serde(default = "study_id")]
    pub study_id_column: String,
    pub split_column: String,
    #[serde(default = "label")]
    pub label_column: String,
    // Older indexes are of rows of one image each.
    #[serde(default = "bag_separator")]
    pub bag_separator: String,
    #[serde(default = "bag_by")]
    pub bag_by: BagBy,
    #[serde(default = "bag_on_bad")]
    pub bag_on_bad: OnBadImage,
}

fn f32() -> Precision {
    Precision::F32
}

fn study_id() -> String {
    Columns::default().study_id
}

fn bag_separator() -> String {
    BagColumns::default().separator
}

fn bag_by() -> BagBy {
    BagColumns::default().by
}

fn bag_on_bad() -> OnBadImage {
    BagColumns::default().on_bad
}

fn label() -> String {
    Columns::default().label
}

impl From<&Columns> for ColumnNames {
    fn from(c: &Columns) -> Self {
        Self {
            image_column: c.image.clone(),
            report_column: c.report.clone(),
            patient_id_column: c.patient_id.clone(),
            study_id_column: c.study_id.clone(),
            split_column: c.split.clone(),
            label_column: c.label.clone(),
            bag_separator: c.bag.separator.clone(),
            bag_by: c.bag.by,
            bag_on_bad: c.bag.on_bad,
        }
    }
}

impl From<&ColumnNames> for Columns {
    fn from(c: &ColumnNames) -> Self {
        Self {
            image: c.image_column.clone(),
            report: c.report_column.clone(),
            patient_id: c.patient_id_column.clone(),
            study_id: c.study_id_column.clone(),
            split: c.split_column.clone(),
            label: c.label_column.clone(),
            bag: BagColumns { separator: c.bag_separator.clone(), by: c.bag_by, on_bad: c.bag_on_bad },
            ..Self::default()
        }
    }
}

impl IndexSource {
    /// The manifest's rows, of the split that was asked for, with their whole reports.
    ///
    /// # Errors
    /// The manifest cannot be read, or a row of it cannot be used.
    pub(super) fn manifest_rows(&self) -> Result<Vec<Row>> {
        self.row_source().map_or(Ok(Vec::new()), |source| source.rows(&ReportPolicy::default()))
    }

    /// All rows of the manifest that can be used today, whatever their split.
    ///
    /// # Errors
    /// The manifest cannot be read.
    pub(super) fn usable_rows(&self) -> Result<Vec<Row>> {
        let Some(source) = self.row_source() else { return Ok(Vec::new()) };
        Ok(Manifest::open(&source.manifest, &source.columns, source.image_root.as_deref())?.rows)
    }

    /// Where its rows stand, if it is of a manifest.
    pub fn row_source(&self) -> Option<RowSource> {
        Some(RowSource {
            manifest: self.manifest.clone()?,
            split: self.split.clone(),
            only_blank: None,
            image_root: self.image_root.clone(),
            columns: Columns::from(&self.columns),
        })
    }

    /// The lines of the text file.
    ///
    /// # Errors
    /// It cannot be read, is no regular file or too long.
    pub(super) fn lines(&self) -> Result<Vec<String>> {
        self.texts.as_ref().map_or(Ok(Vec::new()), |path| lines_of(path))
    }
}

/// The texts of a file, one a line.
///
/// # Errors
/// It cannot be read, is no regular file, too long or not UTF-8.
pub(super) fn lines_of(path: &Path) -> Result<Vec<String>> {
    let text = text_of_file(path).with_context(|| path.display().to_string())?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

/// The text of a file, past its byte-order mark.
///
/// # Errors
/// As [`lines_of`]; none names the file.
pub(super) fn text_of_file(path: &Path) -> Result<String> {
    let mut bytes = unnamed_up_to(path, MOST_TEXT)?;
    if bytes.starts_with("\u{feff}".as_bytes()) {
        bytes.drain(.."\u{feff}".len());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = || format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to());
        anyhow!("{}", why_not_utf8(path).unwrap_or_else(at))
    })
}
