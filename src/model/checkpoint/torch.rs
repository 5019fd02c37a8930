//! Files of `torch.save`: zip archives, and the bare pickles of PyTorch before 1.6. The pickle is parsed and never
//! executed, numbers are read a tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

use super::pickle::{self, MAX_BYTES, Unpickled};
use super::state_dict::TensorPlace;
use crate::archive;
use crate::fs::open_plain;

/// How the old form begins: the pickles of a magic number and of protocol 1001.
const OLD_FORM: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.";

/// A file of tensors, its pickle read.
pub(super) struct TorchFile {
    path: PathBuf,
    tensors: BTreeMap<String, Arc<TensorPlace>>,
    /// Bytes of the file, by key.
    storages: BTreeMap<String, Range<u64>>,
}

impl TorchFile {
    /// Reads names and places.
    ///
    /// # Errors
    /// Neither form, or with anything in it but plain tensors.
    pub fn open(path: &Path) -> Result<Self> {
        let read = || {
            let mut file = open_plain(path)?;
            let length = file.metadata()?.len();
            let head = archive::read_at(&mut file, 0, length.min(OLD_FORM.len() as u64) as usize)?;
            let (found, storages) = match head.as_slice() {
                OLD_FORM => old_form(&mut file, length)?,
                head if head.starts_with(b"PK") => zip(&mut file)?,
                _ => bail!("it begins like no file of torch.save"),
            };
            ensure!(!found.tensors.is_empty(), "holds no tensors at its top level, nor in state_dict or model");
            Ok(Self { path: path.to_path_buf(), tensors: found.tensors, storages })
        };
        read().with_context(|| {
            format!(
                "{}: not a PyTorch archive of plain tensors (code inside a pickle is never executed; convert it to \
                 safetensors with the program that made it)",
                path.display()
            )
        })
    }

    /// Tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorPlace)> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), place.as_ref()))
    }

    /// A tensor in its own type, on the CPU; `None` where there is none of this name.
    ///
    /// # Errors
    /// The file cannot be read, or the tensor has a type that weights do not have.
    pub fn get(&self, name: &str) -> Result<Option<Tensor>> {
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        self.read(place).with_context(|| self.path.display().to_string()).map(Some)
    }

    fn read(&self, place: &TensorPlace) -> Result<Tensor> {
        let element = place.element;
        let dtype: DType = element.name.parse().ok().with_context(|| format!("numbers of type {}", element.name))?;
        if place.shape.contains(&0) {
            return Ok(Tensor::zeros(place.shape.as_slice(), dtype, &Device::Cpu)?);
        }
        let storage = &self.storages[&place.storage];
        // Within the storage, as was checked when it was opened.
        let steps = place.shape.iter().zip(&place.strides).map(|(&d, &stride)| (d as u64 - 1) * stride);
        let numbers = steps.sum::<u64>() as usize + 1;
        let start = storage.start + place.offset * element.bytes as u64;
        let mut file = open_plain(&self.path)?;
        let bytes = archive::read_at(&mut file, start, numbers * element.bytes)?;
        let bytes = if place.is_contiguous() { bytes } else { gather(&bytes, place) };
        Ok(Tensor::from_raw_buffer(&bytes, dtype, &place.shape, &Device::Cpu)?)
    }
}

/// The numbers of a tensor in the order of its dimensions, last first.
fn gather(bytes: &[u8], place: &TensorPlace) -> Vec<u8> {
    let size = place.element.bytes;
    let count: usize = place.shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0usize; place.shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(&place.strides).map(|(&i, &stride)| i * stride as usize).sum();
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for (i, &d) in index.iter_mut().zip(&place.shape).rev() {
            *i += 1;
            if *i < d {
                break;
            }
            *i = 0;
        }
    }
    out
}

type Found = (Unpickled, BTreeMap<String, Range<u64>>);

/// `NAME/data.pkl`, and a storage a file in `NAME/data`.
fn zip(file: &mut File) -> Result<Found> {
    let entries = archive::entries(file)?;
    let pickles: Vec<&String> = entries.keys().filter(|name| name.ends_with("/data.pkl")).collect();
    let &[name] = pickles.as_slice() else { bail!("it has {} entries NAME/data.pkl, not one", pickles.len()) };
    let root = name.trim_end_matches("data.pkl");
    if let Some(order) = entries.get(&format!("{root}byteorder")) {
        ensure!(order.read(file, 16)? == b"little", "its numbers are big-endian");
    }
    let bytes = entries[name].read(file, MAX_BYTES)?;
    let (found, _) = pickle::tensors(&bytes)?;
    let mut storages = BTreeMap::new();
    for (key, storage) in &found.storages {
        let entry = entries.get(&format!("{root}data/{key}"));
        let range = entry.with_context(|| format!("storage {key:?} is missing"))?.range(file)?;
        check_length(key, storage.bytes(), range.end - range.start)?;
        storages.insert(key.clone(), range);
    }
    Ok((found, storages))
}

fn check_length(key: &str, told: Option<u64>, there: u64) -> Result<()> {
    ensure!(
        told.is_some_and(|told| told <= there),
        "storage {key:?} has {there} bytes, the pickle says {}",
        told.map_or("more than can be".into(), |told| told.to_string())
    );
    Ok(())
}

/// Pickles of a magic number, a protocol, the system, the tensors and the keys of storages; then each storage, its
/// count of numbers before it.
fn old_form(file: &mut File, length: u64) -> Result<Found> {
    let bytes = archive::read_at(file, 0, length.min(MAX_BYTES) as usize)?;
    let mut at = OLD_FORM.len();
    at += pickle::skip(&bytes[at..])?;
    let (found, end) = pickle::tensors(&bytes[at..])?;
    at += end;
    let (keys, end) = pickle::texts(&bytes[at..])?;
    let mut at = (at + end) as u64;
    let mut storages = BTreeMap::new();
    for key in keys {
        let storage = found.storages.get(&key).context("a storage of no tensor")?;
        let count = archive::read_at(file, at, 8)?;
        ensure!(count == storage.numbers.to_le_bytes(), "storage {key:?} has two lengths");
        let start = at + 8;
        let told = storage.bytes();
        check_length(&key, told, length - start)?;
        at = start + told.unwrap_or_default();
        storages.insert(key, start..at);
    }
    let missing = found.storages.keys().find(|key| !storages.contains_key(*key));
    ensure!(missing.is_none(), "storage {:?} is missing", missing.map_or("", String::as_str));
    Ok((found, storages))
}
