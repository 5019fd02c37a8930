//! Whether a file of an index is still the one that was opened.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Result, ensure};

/// What is said where something that was opened is another one by now.
pub(super) const CHANGED: &str = "the index has changed since it was opened; open it again";

/// By what a file that was opened is known again: length, and when it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, Option<SystemTime>);

impl Stamp {
    /// # Errors
    /// The system does not say.
    pub fn of(file: &File) -> Result<Self> {
        let meta = file.metadata()?;
        Ok(Self(meta.len(), meta.modified().ok()))
    }

    /// # Errors
    /// It is another file by now.
    pub fn check(&self, file: &File) -> Result<()> {
        ensure!(Self::of(file)? == *self, CHANGED);
        Ok(())
    }

    /// Some bytes of the file of this stamp.
    ///
    /// # Errors
    /// It cannot be read, or is another one by now; without its path.
    pub fn read(&self, path: &Path, from: u64, count: usize) -> Result<Vec<u8>> {
        let mut file = File::open(path)?;
        self.check(&file)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = vec![0; count];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
