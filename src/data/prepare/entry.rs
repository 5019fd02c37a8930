//! What a preset reads, and how data sets' own words become ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::data::sections::Section;

/// Longest file with one report, bytes: no report is longer.
pub(super) const MAX_REPORT: u64 = 16 << 20;

/// An image with its report, as a data set's own files have it. Numbers of patients are hashed before they are written.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Where the image should be.
    pub image: PathBuf,
    /// The report, its sections under headings.
    pub report: String,
    /// Patient, as the data set calls them.
    pub patient: Option<String>,
    /// Study.
    pub study: Option<String>,
    /// View or projection.
    pub view: Option<String>,
    /// One label.
    pub label: Option<String>,
    /// The official split: train, val or test; that of the preset where there is no official one.
    pub split: Option<String>,
    /// Further columns with their values, the same of every entry of a data set.
    pub more: Vec<(&'static str, String)>,
    /// Whether the image is a volume among images, which is written under no other name.
    pub is_volume: bool,
}

/// What a preset found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What may become a row.
    pub entries: Vec<Entry>,
    /// How many rows of the data set's own tables (images of a folder) cannot, by what they are: "whose …".
    pub left_out: BTreeMap<&'static str, usize>,
    /// What whoever uses the rows should know, a line each.
    pub notes: Vec<String>,
}

impl Found {
    /// Counts a row that is not used.
    pub(super) fn leave_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }

    /// Counts rows that are not used since they have cells beyond their header.
    pub(super) fn leave_out_long(&mut self, rows: usize) {
        if rows > 0 {
            *self.left_out.entry("with more cells than the header").or_default() += rows;
        }
    }
}

/// The folder in `root` that archives of a data set unpack into, where it is there; `root` may be that folder itself.
pub(super) fn unpacked(root: &Path, inner: &str) -> PathBuf {
    let inside = root.join(inner);
    if inside.is_dir() { inside } else { root.to_path_buf() }
}

impl From<Vec<Entry>> for Found {
    fn from(entries: Vec<Entry>) -> Self {
        Self { entries, ..Self::default() }
    }
}

/// Of a row that names its image by nothing, or by what leads elsewhere.
pub(super) const NO_NAME: &str = "whose image has no name of a file";

/// Sections as one report that the section parser reads back.
pub(super) fn with_headings(sections: &[(Section, Option<String>)]) -> String {
    let filled = sections.iter().filter_map(|(section, text)| {
        let text = text.as_deref()?.trim();
        (!text.is_empty()).then(|| format!("{}: {text}", section.heading()))
    });
    filled.collect::<Vec<_>>().join("\n")
}

/// The splits of data sets under the names that are used here.
pub(super) fn split_name(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase();
    match name.as_str() {
        "" => None,
        "validate" | "validation" | "valid" | "dev" => Some("val".into()),
        _ => Some(name),
    }
}

/// The first of `candidates` that is there; else the first, so that it is named as missing.
pub(super) fn first_there(candidates: Vec<PathBuf>) -> PathBuf {
    candidates.iter().find(|path| path.is_file()).or(candidates.first()).cloned().unwrap_or_default()
}
