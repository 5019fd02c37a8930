//! What `prepare` writes.

use anyhow::{Result, ensure};

use super::{FileNames, Preset};

/// What is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shorter side of the images that are written, pixels; `None` = they keep their size.
    pub size: Option<u32>,
    /// Images stay where they are, and the manifest names their files, whatever these are called.
    pub keep_paths: bool,
    /// Rows of a WebDataset shard; `None` = no shards.
    pub shard: Option<usize>,
    /// What patients' and studies' numbers are hashed with; `None` = drawn once and kept in the folder.
    pub salt: Option<String>,
}

impl Options {
    /// Whether images of `preset` are written, each under a name that says nothing.
    ///
    /// # Errors
    /// Their paths would name patients, and nobody asked for that; or they are volumes, which are not written.
    pub fn writes_images(&self, preset: &Preset) -> Result<bool> {
        let is_written = self.size.is_some() || self.shard.is_some();
        let is_volumes = preset.file_names == FileNames::NumberedVolumes;
        ensure!(
            !(is_volumes && is_written),
            "{}: volumes stay as they are; leave out --size and --webdataset, and give --keep-paths",
            preset.name
        );
        let is_numbered = is_volumes || preset.file_names == FileNames::Numbered;
        let elsewhere = match is_volumes {
            true => "volumes are not written under other names",
            false => "--size PIXELS or --webdataset ROWS writes images under other names",
        };
        ensure!(
            is_written || self.keep_paths || !is_numbered,
            "the paths of {} hold the numbers of patients and studies, which would stand beside their hashes; \
             {elsewhere}, --keep-paths leaves them where they are",
            preset.name
        );
        Ok(!self.keep_paths && (self.size.is_some() || preset.file_names == FileNames::Private))
    }
}
