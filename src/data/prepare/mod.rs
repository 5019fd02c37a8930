//! From the official layout of a data set, as it is downloaded, to a manifest that everything else uses.
//!
//! A preset reads what its files say ([`Entry`]); `write` does the rest for all of them. A new preset is a file here
//! and a line in the table below.

mod chestx_det;
mod chexpert_plus;
mod covid_chestxray;
mod ct_rate;
mod entry;
mod folder;
mod merlin;
mod mimic_cxr;
mod ms_cxr;
mod openi;
mod options;
mod padchest;
mod record;
mod roco;
mod row;
pub(super) mod sheet;
mod write;

use std::path::Path;

use anyhow::Result;

pub use entry::{Entry, Found};
pub use options::Options;
pub use write::{Job, Summary};

type Read = fn(&Path) -> Result<Found>;

/// What the names of a data set's files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileNames {
    /// Nothing of a patient that is not public already.
    Public,
    /// The number of a patient, which the data set calls by it too.
    Numbered,
    /// As that; the files are volumes, which are written under no other name.
    NumberedVolumes,
    /// Anything: whoever made them wrote what he liked.
    Private,
}

/// Name of a preset, what its files are called, and how it is read.
const PRESETS: [(&str, FileNames, Read); 11] = [
    ("openi", FileNames::Public, openi::read),
    ("mimic-cxr", FileNames::Numbered, mimic_cxr::read),
    ("roco", FileNames::Public, roco::read),
    ("chexpert-plus", FileNames::Numbered, chexpert_plus::read),
    ("padchest", FileNames::Public, padchest::read),
    ("covid-chestxray", FileNames::Public, covid_chestxray::read),
    ("ct-rate", FileNames::NumberedVolumes, ct_rate::read),
    ("merlin", FileNames::NumberedVolumes, merlin::read),
    ("ms-cxr", FileNames::Numbered, ms_cxr::read),
    ("chestx-det", FileNames::Public, chestx_det::read),
    ("folder", FileNames::Private, folder::read),
];

/// A data set whose layout is known.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// As on the command line.
    pub name: &'static str,
    /// What its files are called.
    pub file_names: FileNames,
    read: Read,
}

impl Preset {
    /// All names.
    pub fn names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|p| p.0)
    }

    /// The preset of that name.
    pub fn find(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|p| p.0 == name).map(|(name, file_names, read)| Self { name, file_names, read })
    }

    /// What the data set at `root` holds; images may be missing.
    ///
    /// # Errors
    /// A file that the layout must have is missing or broken.
    pub fn read(&self, root: &Path) -> Result<Found> {
        (self.read)(root)
    }
}
