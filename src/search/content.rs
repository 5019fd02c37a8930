//! Whether the files of an index still hold what was written into them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::gallery::Gallery;
use crate::digest::{ContentHash, Depth, of_file};

/// What helps where a part of an index is broken or gone.
pub(super) const ANEW: &str = "the same `reportclip embed` makes it anew";

/// What the files of a shard hold: by this one that was changed, cut off or taken from another index is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardContent {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Of every byte.
    whole: String,
    /// Of lengths and parts, for indexes that are too large to be read for this alone.
    parts: String,
}

impl ShardContent {
    /// Of `files`.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of(files: &[PathBuf]) -> Result<Self> {
        Ok(Self { bytes: bytes(files)?, whole: digest(files, Depth::Whole)?, parts: digest(files, Depth::Parts)? })
    }

    /// Makes sure that `files` hold this, as far as `depth` looks.
    ///
    /// # Errors
    /// They do not, or cannot be read.
    pub fn check(&self, files: &[PathBuf], depth: Depth) -> Result<()> {
        let told = if depth == Depth::Whole { &self.whole } else { &self.parts };
        let is_same = bytes(files)? == self.bytes && digest(files, depth)? == *told;
        ensure!(
            is_same,
            "{}: not as `reportclip embed` wrote it: changed, cut off or taken from another index; {ANEW}",
            named(files)
        );
        Ok(())
    }
}

/// What the vectors of an index in one file are: the file itself says so, beside them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VectorContent {
    /// Of every number.
    whole: String,
    /// Of blocks all over them, for indexes that are too large to be read for this alone.
    parts: String,
}

impl VectorContent {
    /// # Errors
    /// They cannot be read.
    pub fn of(galleries: &[&Gallery]) -> Result<Self> {
        Ok(Self { whole: of_vectors(galleries, Depth::Whole)?, parts: of_vectors(galleries, Depth::Parts)? })
    }

    /// Makes sure that these are they: every number where they have up to `whole` bytes in all, else blocks.
    ///
    /// # Errors
    /// They are not, or cannot be read.
    pub fn check(&self, galleries: &[&Gallery], whole: u64) -> Result<()> {
        let depth = Depth::within(galleries.iter().map(|gallery| gallery.bytes() as u64).sum(), whole);
        let told = if depth == Depth::Whole { &self.whole } else { &self.parts };
        let is_same = of_vectors(galleries, depth)? == *told;
        ensure!(is_same, "its vectors are not those that `reportclip embed` wrote; the same command makes it anew");
        Ok(())
    }
}

fn of_vectors(galleries: &[&Gallery], depth: Depth) -> Result<String> {
    let mut hash = ContentHash::default();
    galleries.iter().try_for_each(|gallery| gallery.add_to(&mut hash, depth))?;
    Ok(hash.hex())
}

fn named(files: &[PathBuf]) -> String {
    files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn bytes(files: &[PathBuf]) -> Result<u64> {
    let length = |path: &PathBuf| {
        let meta = std::fs::metadata(path);
        let place = || format!("{}: {ANEW}", path.display());
        Ok(meta.with_context(place)?.len())
    };
    files.iter().map(length).sum()
}

fn digest(files: &[PathBuf], depth: Depth) -> Result<String> {
    let mut hash = ContentHash::default();
    for path in files {
        hash.field(of_file(path, depth).with_context(|| path.display().to_string())?);
    }
    Ok(hash.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_other_lengths_and_other_files_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| dir.path().join(name));
        let write = |name: &PathBuf, byte: u8, length: usize| std::fs::write(name, vec![byte; length]).unwrap();
        let restore = || files.iter().zip([1, 2]).for_each(|(name, byte)| write(name, byte, 100_000));
        restore();
        let content = ShardContent::of(&files).unwrap();
        let holds = |depth| content.check(&files, depth).is_ok();
        let both = || [holds(Depth::Whole), holds(Depth::Parts)];
        assert_eq!(both(), [true; 2]);
        write(&files[1], 2, 99_999);
        assert_eq!(both(), [false; 2], "cut off");
        restore();
        std::fs::rename(&files[0], dir.path().join("c")).unwrap();
        assert_eq!(both(), [false; 2], "gone");
        std::fs::rename(&files[1], &files[0]).unwrap();
        std::fs::rename(dir.path().join("c"), &files[1]).unwrap();
        assert_eq!(both(), [false; 2], "swapped");
        restore();
        let mut bytes = vec![1; 100_000];
        bytes[70_001] = 3;
        std::fs::write(&files[0], bytes).unwrap();
        assert_eq!(both(), [false, true], "between the parts");
        let told = content.check(&files, Depth::Whole).unwrap_err().to_string();
        assert!(told.contains("/a, ") && told.contains("/b: not as `reportclip embed` wrote it"), "{told}");
    }
}
