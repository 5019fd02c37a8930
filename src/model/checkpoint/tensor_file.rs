//! A safetensors file, its header read, its numbers read a tensor at a time. It is not mapped: the pages of a map count
//! as the process's memory beside the weights that are made of them, which doubles the peak of whoever opens a model.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo, TensorView};

use crate::fs::open_plain;

/// Longest header of a safetensors file; that of a model of ten thousand tensors has a megabyte.
const MAX_HEADER: u64 = 32 << 20;
/// Bytes before the header, which say how long it is.
const LENGTH: u64 = 8;

pub(super) struct TensorFile {
    path: PathBuf,
    /// Open all the while: what takes the name meanwhile is another file.
    file: File,
    header: Metadata,
    /// Where the numbers begin.
    start: u64,
}

impl TensorFile {
    /// Reads the header, and compares what it says of places with the file's length.
    ///
    /// # Errors
    /// No whole safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let place = || format!("{}: not a whole safetensors file", path.display());
        let mut file = open_plain(path).with_context(place)?;
        let length = check_header(&mut file).with_context(place)?;
        let mut text = vec![0; length as usize];
        let read = file.read_exact(&mut text).map_err(anyhow::Error::from);
        let parsed = read.and_then(|()| Ok(serde_json::from_slice::<Metadata>(&text)?));
        let header = parsed.with_context(place)?;
        let (start, all) = (LENGTH + length, file.metadata().with_context(place)?.len());
        ensure!(
            start.checked_add(header.data_len() as u64) == Some(all),
            "{}: it has {all} bytes, by its header {start} and {} of numbers",
            place(),
            header.data_len()
        );
        Ok(Self { path: path.to_path_buf(), file, header, start })
    }

    /// Places by name.
    pub fn tensors(&self) -> HashMap<String, &TensorInfo> {
        self.header.tensors()
    }

    /// A tensor in its own type, on the CPU; `None` where there is none of this name.
    ///
    /// # Errors
    /// The file cannot be read, or the tensor has a type that no weights have.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(info) = self.header.info(name) else { return Ok(None) };
        self.read(info).with_context(|| self.path.display().to_string()).map(Some)
    }

    fn read(&self, info: &TensorInfo) -> Result<Tensor> {
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        // At a place of its own: threads read side by side.
        self.file.read_exact_at(&mut bytes, self.start + from as u64)?;
        Ok(TensorView::new(info.dtype, info.shape.clone(), &bytes)?.load(&Device::Cpu)?)
    }
}

/// The header's length; names and places take several times their bytes in memory.
pub(super) fn check_header(file: &mut File) -> Result<u64> {
    let mut length = [0u8; LENGTH as usize];
    file.read_exact(&mut length).context("it ends early")?;
    let (length, all) = (u64::from_le_bytes(length), file.metadata()?.len());
    ensure!(length <= MAX_HEADER, "its header would have {length} bytes; allowed are {MAX_HEADER}");
    ensure!(LENGTH + length <= all, "it has {all} bytes, its header would have {length}");
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::model::checkpoint::save_safetensors;

    #[test]
    fn files_that_are_cut_off_are_told_of_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let tensor = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap();
        save_safetensors(&path, &[("a".into(), tensor.clone()), ("b".into(), tensor)]).unwrap();
        let whole = fs::read(&path).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let numbers = |name| file.get(name).unwrap().unwrap().to_vec1::<f32>().unwrap();
        assert!(numbers("a") == numbers("b") && numbers("b")[11] == 11.0);
        assert!(file.get("c").unwrap().is_none());
        // While it is open; what is there still is read.
        let open = fs::OpenOptions::new().write(true).open(&path).unwrap();
        open.set_len(whole.len() as u64 - 1).unwrap();
        assert_eq!(numbers("a")[11], 11.0);
        let told = format!("{:#}", file.get("b").unwrap_err());
        assert!(told.starts_with(&format!("{}: ", path.display())), "{told}");
        for bytes in [&whole[..whole.len() - 1], &[whole.as_slice(), &[0]].concat()] {
            fs::write(&path, bytes).unwrap();
            let told = format!("{:#}", TensorFile::open(&path).err().unwrap());
            assert!(told.contains(&format!("it has {} bytes, by its header", bytes.len())), "{told}");
        }
    }
}
