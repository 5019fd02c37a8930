//! From the official layout of a data set, as it is downloaded, to a manifest that everything else uses.
//!
//! A preset reads what its files say ([`Entry`]); `write` does the rest for all of them. A new preset is a file here and a
//! line in the table below.

mod chexpert_plus;
mod folder;
mod mimic_cxr;
mod openi;
mod padchest;
mod roco;
mod sheet;
mod write;

use std::path::{Path, PathBuf};

use anyhow::Result;

pub use write::{Job, Options, Summary};

use super::sections::Section;

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
    /// The official split: train, val or test.
    pub split: Option<String>,
}

type Read = fn(&Path) -> Result<Vec<Entry>>;

/// Name of a preset, whether names of its files are public, and how it is read.
const PRESETS: [(&str, bool, Read); 6] = [
    ("openi", true, openi::read),
    ("mimic-cxr", true, mimic_cxr::read),
    ("roco", true, roco::read),
    ("chexpert-plus", true, chexpert_plus::read),
    ("padchest", true, padchest::read),
    ("folder", false, folder::read),
];

/// A data set whose layout is known.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// As on the command line.
    pub name: &'static str,
    /// Whether its file names say nothing of a patient that is not public already.
    pub public_names: bool,
    read: Read,
}

impl Preset {
    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|p| p.0)
    }

    /// The preset of that name.
    pub fn find(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|p| p.0 == name).map(|(name, public_names, read)| Self { name, public_names, read })
    }

    /// What the data set at `root` holds; images may be missing.
    ///
    /// # Errors
    /// A file that the layout must have is missing or broken.
    pub fn read(&self, root: &Path) -> Result<Vec<Entry>> {
        (self.read)(root)
    }
}

/// Sections as one report that the section parser reads back.
fn with_headings(sections: &[(Section, Option<String>)]) -> String {
    let filled = sections.iter().filter_map(|(section, text)| {
        let text = text.as_deref()?.trim();
        (!text.is_empty()).then(|| format!("{}: {text}", section.heading()))
    });
    filled.collect::<Vec<_>>().join("\n")
}

/// The splits of data sets under the names that are used here.
fn split_name(name: &str) -> Option<String> {
    let name = name.trim().to_lowercase();
    match name.as_str() {
        "" => None,
        "validate" | "validation" | "valid" | "dev" => Some("val".into()),
        _ => Some(name),
    }
}

/// The first of `candidates` that is there; else the first, so that it is named as missing.
fn first_there(candidates: Vec<PathBuf>) -> PathBuf {
    candidates.iter().find(|path| path.is_file()).or(candidates.first()).cloned().unwrap_or_default()
}
