//! Embeddings as safetensors: written whole, read a block of rows at a time.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use serde::Deserialize;

use super::gallery::Vectors;
use super::stamp::Stamp;
use crate::fs::{Access, open_plain};
use crate::model::checkpoint::save_safetensors_noting;

/// Names of the tensors.
pub(super) const IMAGES: &str = "image_embeds";
pub(super) const TEXTS: &str = "text_embeds";
/// Under what the header says what they are of, and what the vectors are.
pub(super) const ABOUT: &str = "reportclip";
pub(super) const CONTENT: &str = "reportclip_vectors";
/// Longest header, as safetensors has it.
const MOST_HEADER: u64 = 100_000_000;

/// Writes tensors, with `notes` in the header: names and texts.
///
/// # Errors
/// They cannot be written; an old file is untouched then.
pub(super) fn write<'t>(
    path: &Path,
    tensors: impl Iterator<Item = (&'static str, &'t Tensor)>,
    notes: &[(&str, &str)],
    access: Access,
) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = tensors.map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
    access.replace_with(path, |path| save_safetensors_noting(path, &tensors, notes))
}

/// A file's header: which tensors lie where, and what it says of them.
pub(super) struct Header {
    entries: HashMap<String, Entry>,
    notes: HashMap<String, String>,
    /// Where the tensors' bytes begin, and how many there are.
    start: u64,
    bytes: u64,
    stamp: Stamp,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl Header {
    /// # Errors
    /// It is no safetensors file.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = open_plain(path)?;
        let (length, stamp) = (file.metadata()?.len(), Stamp::of(&file)?);
        let mut size = [0; 8];
        file.read_exact(&mut size).context("no safetensors file")?;
        let size = u64::from_le_bytes(size);
        let bytes = length.checked_sub(8).and_then(|rest| rest.checked_sub(size)).filter(|_| size <= MOST_HEADER);
        let bytes = bytes.context("no safetensors file")?;
        let mut header = Vec::new();
        file.take(size).read_to_end(&mut header)?;
        let mut fields: HashMap<String, serde_json::Value> =
            serde_json::from_slice(&header).context("no safetensors file")?;
        let notes = fields.remove("__metadata__").map(serde_json::from_value).transpose()?.unwrap_or_default();
        let entries = fields.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value)?)));
        Ok(Self { entries: entries.collect::<Result<_>>()?, notes, start: 8 + size, bytes, stamp })
    }

    /// What the file says of its tensors under this name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str)
    }

    /// The rows of a tensor: how many, how wide, and where they lie in the file at `path`, whose header this is.
    ///
    /// # Errors
    /// It is no matrix of f32 that lies in the file.
    pub fn rows(&self, path: &Path, name: &str) -> Result<Option<(usize, usize, Vectors)>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let (from, to) = entry.data_offsets;
        ensure!(entry.dtype == "F32", "{name}: is of type {}, not F32", entry.dtype);
        let &[rows, width] = entry.shape.as_slice() else { anyhow::bail!("{name}: is no matrix") };
        let bytes = rows.checked_mul(width).and_then(|n| n.checked_mul(4)).map(|n| n as u64);
        let fits = to.checked_sub(from).is_some_and(|length| Some(length) == bytes) && to <= self.bytes && width > 0;
        ensure!(fits, "{name}: does not lie in the file as its header says");
        Ok(Some((rows, width, Vectors::Raw { path: path.to_path_buf(), offset: self.start + from, stamp: self.stamp })))
    }
}
