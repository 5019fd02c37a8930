//! Writing shards.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::members::Allowance;

/// A shard that is being written; it has its name once it is whole.
pub struct ShardWriter {
    path: PathBuf,
    // Before what removes its file.
    tar: tar::Builder<BufWriter<File>>,
    partial: Partial,
}

/// A file that goes when nobody writes it any more, unless it has another name by then.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// A sample as it is written.
pub struct Sample<'a> {
    /// Name of its members, without their endings.
    pub key: &'a str,
    /// The image file, and its ending.
    pub image: &'a [u8],
    /// As above.
    pub ending: &'a str,
    /// An object with its texts, under the names of columns.
    pub texts: &'a Value,
}

impl ShardWriter {
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        let partial = Partial(path.with_extension("tar.partial"));
        let file = File::create(&partial.0).with_context(|| partial.0.display().to_string())?;
        Ok(Self { path: path.to_path_buf(), partial, tar: tar::Builder::new(BufWriter::new(file)) })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// The disk is full.
    pub fn add(&mut self, sample: &Sample) -> Result<()> {
        self.append(&format!("{}.{}", sample.key, sample.ending), sample.image)?;
        self.append(&format!("{}.json", sample.key), sample.texts.to_string().as_bytes())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        Ok(self.tar.append_data(&mut header, name, bytes)?)
    }

    /// Ends it and gives it its name.
    ///
    /// # Errors
    /// The disk is full.
    pub fn finish(self) -> Result<()> {
        let Self { path, partial, tar } = self;
        let mut buffer = tar.into_inner()?;
        buffer.flush()?;
        buffer.get_ref().sync_all()?;
        fs::rename(&partial.0, &path).with_context(|| path.display().to_string())
    }
}

/// Keys of the samples that a shard holds.
///
/// # Errors
/// It is no whole shard.
pub fn keys(shard: &Path) -> Result<HashSet<String>> {
    let place = || format!("{}: is no whole shard; remove it", shard.display());
    let allowed = Allowance::default();
    let mut archive = allowed.archive(File::open(shard).with_context(place)?);
    let mut keys = HashSet::new();
    for member in allowed.members(&mut archive).with_context(place)? {
        let member = member.with_context(place)?;
        let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
        keys.extend(name.split('.').next().map(str::to_string));
    }
    Ok(keys)
}
