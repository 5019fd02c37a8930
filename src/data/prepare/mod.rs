//! From the official layout of a data set, as it is downloaded, to a manifest that everything else uses.
//!
//! A preset reads what its files say ([`Entry`]); `write` does the rest for all of them. A new preset is a file here
//! and a line in the table below.

mod chexpert_plus;
mod entry;
mod folder;
mod mimic_cxr;
mod openi;
mod padchest;
mod roco;
mod sheet;
mod write;

use std::path::Path;

use anyhow::Result;

pub use entry::Entry;
pub use write::{Job, Options, Summary};

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
