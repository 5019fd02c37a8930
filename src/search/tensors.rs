//! Embeddings as safetensors: written whole, read a block of rows at a time.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
pub(super) use safetensors::Dtype;
use safetensors::View;
use serde::Deserialize;

use super::gallery::Vectors;
use super::stamp::Stamp;
use crate::fs::{Access, open_plain};

/// Names of the tensors.
pub(super) const IMAGES: &str = "image_embeds";
pub(super) const TEXTS: &str = "text_embeds";
/// Under what the header says what they are of: one text, for several would come in any order.
const KEY: &str = "reportclip";
/// Longest header, as safetensors has it.
const MOST_HEADER: u64 = 100_000_000;

/// Writes tensors, with what they are of.
///
/// # Errors
/// They cannot be written; an old file is untouched then.
pub(super) fn write<V: View>(
    path: &Path,
    tensors: impl Iterator<Item = (&'static str, V)>,
    about: Option<String>,
    access: Access,
) -> Result<()> {
    let metadata = about.map(|about| [(KEY.to_string(), about)].into());
    access.replace_with(path, |path| {
        // The library puts a file there that only its owner can read.
        let rights = File::create(path)?.metadata()?.permissions();
        safetensors::serialize_to_file(tensors, metadata, path)?;
        Ok(std::fs::set_permissions(path, rights)?)
    })
}

/// Numbers as their bytes, little-endian.
pub(super) struct Plain {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Plain {
    /// A tensor of f32.
    ///
    /// # Errors
    /// It is of another type.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(Self { dtype: Dtype::F32, shape: tensor.dims().to_vec(), bytes })
    }
}

impl View for &Plain {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A file's header: which tensors lie where, and what it says of them.
pub(super) struct Header {
    entries: HashMap<String, Entry>,
    about: Option<String>,
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
        let metadata = fields.remove("__metadata__").map(serde_json::from_value::<HashMap<String, String>>);
        let about = metadata.transpose()?.and_then(|mut metadata| metadata.remove(KEY));
        let entries = fields.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value)?)));
        Ok(Self { entries: entries.collect::<Result<_>>()?, about, start: 8 + size, bytes, stamp })
    }

    /// What the file says of its tensors, where `embed` wrote it.
    pub fn about(&self) -> Option<&str> {
        self.about.as_deref()
    }

    /// The rows of a tensor: how many, how wide, and where they lie in the file at `path`, whose header this is.
    ///
    /// # Errors
    /// It is no matrix of f32 that lies in the file.
    pub fn rows(&self, path: &Path, name: &str) -> Result<Option<(usize, usize, Vectors)>> {
        let Some((shape, offset)) = self.lies(name, "F32", 4)? else { return Ok(None) };
        let &[rows, width] = shape else { anyhow::bail!("{name}: is no matrix") };
        ensure!(width > 0, "{name}: does not lie in the file as its header says");
        Ok(Some((rows, width, Vectors::Raw { path: path.to_path_buf(), offset, stamp: self.stamp })))
    }

    /// The shape of a tensor of this type, whose numbers have so many bytes, and where it begins in the file.
    ///
    /// # Errors
    /// It is of another type, or does not lie in the file.
    pub fn lies(&self, name: &str, dtype: &str, size: usize) -> Result<Option<(&[usize], u64)>> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let (from, to) = entry.data_offsets;
        ensure!(entry.dtype == dtype, "{name}: is of type {}, not {dtype}", entry.dtype);
        let bytes = entry.shape.iter().try_fold(size, |all, side| all.checked_mul(*side)).map(|n| n as u64);
        let fits = to.checked_sub(from).is_some_and(|length| Some(length) == bytes) && to <= self.bytes;
        ensure!(fits, "{name}: does not lie in the file as its header says");
        Ok(Some((&entry.shape, self.start + from)))
    }

    /// By what the file is known again.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }
}
