//! The files that hold tensors: safetensors, whole or in shards, and PyTorch's zip archives, whose pickle is parsed and
//! never executed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorInfo;

use serde_json::Value;

use super::tensor_file::{TensorFile, check_header};
use super::torch::TorchFile;
use crate::fs::{open_plain, read_up_to};
use crate::hub::ModelFiles;
use crate::json;

/// A folder within a model's files.
#[derive(Clone, Copy)]
pub(super) struct Folder<'a> {
    pub files: &'a ModelFiles,
    /// Empty for the model's own.
    pub name: &'a str,
}

impl<'a> Folder<'a> {
    /// The model's own folder.
    pub fn top(files: &'a ModelFiles) -> Self {
        Self { files, name: "" }
    }

    fn inside(&self, file: &str) -> String {
        if self.name.is_empty() { file.to_string() } else { format!("{}/{file}", self.name) }
    }

    /// As [`ModelFiles::find`].
    pub fn find(&self, file: &str) -> Result<Option<PathBuf>> {
        Ok(self.files.find(&self.inside(file))?)
    }

    /// As [`ModelFiles::get`].
    pub fn get(&self, file: &str) -> Result<PathBuf> {
        Ok(self.files.get(&self.inside(file))?)
    }

    /// The content of a JSON file, where there is such a file.
    pub fn json(&self, file: &str) -> Result<Option<Value>> {
        let Some(path) = self.find(file)? else { return Ok(None) };
        json::read(&path).map(Some)
    }
}

impl std::fmt::Display for Folder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name {
            "" => write!(f, "{}", self.files.source()),
            name => write!(f, "{}: {name}", self.files.source()),
        }
    }
}

/// Weight files of one model, opened, nothing read yet but headers.
pub(super) struct WeightFiles {
    kind: Kind,
    /// Name → name in the file, where they differ.
    stored: HashMap<String, String>,
}

enum Kind {
    Safetensors(Vec<TensorFile>),
    Torch(Vec<TorchFile>),
}

/// Names of a program's weight files, without their endings.
#[derive(Clone, Copy)]
pub(super) struct WeightNames {
    safetensors: &'static str,
    pickle: &'static str,
}

/// transformers'.
pub(super) const TRANSFORMERS: WeightNames = WeightNames { safetensors: "model", pickle: "pytorch_model" };
/// open_clip's.
pub(super) const OPEN_CLIP: WeightNames =
    WeightNames { safetensors: "open_clip_model", pickle: "open_clip_pytorch_model" };
/// Ours, for the heads of a pair.
pub(super) const PAIR_HEADS: WeightNames = WeightNames { safetensors: "heads", pickle: "heads" };
/// Ours, for the weights of a bag pooling.
pub(super) const BAG_POOLING: WeightNames = WeightNames { safetensors: "bag_pooling", pickle: "bag_pooling" };

impl WeightFiles {
    /// The first of `<safetensors>.safetensors`, its sharded form, `<pickle>.bin`, its sharded form.
    pub fn open(folder: Folder, names: WeightNames) -> Result<Self> {
        let WeightNames { safetensors: safe, pickle } = names;
        let names = [
            format!("{safe}.safetensors"),
            format!("{safe}.safetensors.index.json"),
            format!("{pickle}.bin"),
            format!("{pickle}.bin.index.json"),
        ];
        for (i, name) in names.iter().enumerate() {
            let Some(path) = folder.find(name)? else { continue };
            let paths = if name.ends_with(".json") { shards(folder, &path)? } else { vec![path] };
            let kind = if i < 2 { open_safetensors(&paths)? } else { open_torch(&paths)? };
            let mut files = Self { kind, stored: HashMap::new() };
            if let Some(name) = files.doubled() {
                bail!(
                    "{folder}: tensor {name} is there twice in {}; which of them counts, nothing says",
                    file_list(&paths)
                );
            }
            files.stored = files.list().filter_map(|(stored, ..)| Some((modern(&stored)?, stored))).collect();
            return Ok(files);
        }
        bail!("{folder}: no weights; looked for {}", names.join(", "))
    }

    /// A name that two tensors have, in two files or in an old and a new form.
    fn doubled(&self) -> Option<String> {
        let mut seen = HashSet::new();
        self.list().map(|(name, ..)| current(name)).find(|name| !seen.insert(name.clone()))
    }

    /// Name → shape of everything inside.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        self.list().map(|(name, shape, _)| (current(name), shape)).collect()
    }

    /// Names of the tensors that hold whole numbers or truth values, with their type.
    pub fn integers(&self) -> BTreeMap<String, String> {
        let integers = self.list().filter(|(_, _, numbers)| !numbers.contains('f'));
        integers.map(|(name, _, numbers)| (current(name), numbers)).collect()
    }

    /// Name, as the files have it, shape and type of everything inside, as "f32", "bf16", "i64".
    fn list(&self) -> Box<dyn Iterator<Item = (String, Vec<usize>, String)> + '_> {
        match &self.kind {
            Kind::Safetensors(parts) => {
                let told =
                    |(name, info): (_, &TensorInfo)| (name, info.shape.clone(), info.dtype.to_string().to_lowercase());
                Box::new(parts.iter().flat_map(TensorFile::tensors).map(told))
            }
            Kind::Torch(parts) => Box::new(
                parts
                    .iter()
                    .flat_map(TorchFile::tensors)
                    .map(|(name, place)| (name.to_string(), place.shape.clone(), place.element.name.to_string())),
            ),
        }
    }

    /// The tensor of this name in f32, on the CPU.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        Ok(self.get_as_stored(name)?.to_dtype(DType::F32)?)
    }

    /// The tensor of this name in its own type, on the CPU.
    pub fn get_as_stored(&self, name: &str) -> Result<Tensor> {
        let name = self.stored.get(name).map_or(name, String::as_str);
        let found = match &self.kind {
            Kind::Safetensors(parts) => parts.iter().find_map(|part| part.get(name).transpose()),
            Kind::Torch(parts) => parts.iter().find_map(|part| part.get(name).transpose()),
        };
        found.transpose()?.with_context(|| format!("tensor {name} is in none of the files"))
    }
}

/// Names of files, the first few.
fn file_list(paths: &[PathBuf]) -> String {
    const SHOWN: usize = 3;
    let names = paths.iter().take(SHOWN).filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
    let more = if paths.len() > SHOWN { format!(" and {} more", paths.len() - SHOWN) } else { String::new() };
    names.collect::<Vec<_>>().join(", ") + &more
}

/// BERTs converted from TensorFlow call a norm's weight gamma and its bias beta.
fn modern(name: &str) -> Option<String> {
    let rename = |old: &str, new: &str| Some(format!("{}LayerNorm.{new}", name.strip_suffix(old)?));
    rename("LayerNorm.gamma", "weight").or_else(|| rename("LayerNorm.beta", "bias"))
}

/// What models call it today.
fn current(name: String) -> String {
    modern(&name).unwrap_or(name)
}

fn open_safetensors(paths: &[PathBuf]) -> Result<Kind> {
    let open = |path: &PathBuf| {
        check_not_lfs_pointer(path)?;
        TensorFile::open(path)
    };
    paths.iter().map(open).collect::<Result<Vec<_>>>().map(Kind::Safetensors)
}

fn open_torch(paths: &[PathBuf]) -> Result<Kind> {
    let open = |path: &PathBuf| {
        check_not_lfs_pointer(path)?;
        TorchFile::open(path)
    };
    paths.iter().map(open).collect::<Result<Vec<_>>>().map(Kind::Torch)
}

/// A repository cloned without Git LFS has small text files in place of weights.
fn check_not_lfs_pointer(path: &Path) -> Result<()> {
    use std::io::Read;
    let mut head = [0u8; 24];
    let mut file = open_plain(path).with_context(|| path.display().to_string())?;
    let n = file.read(&mut head).with_context(|| path.display().to_string())?;
    ensure!(
        !head[..n].starts_with(b"version https://git-lfs"),
        "{}: is a Git LFS pointer, not the weights; run `git lfs pull` in that folder",
        path.display()
    );
    Ok(())
}

/// The distinct files named by an index. Names come from outside: `ModelFiles::get` refuses those that leave the
/// folder.
fn shards(folder: Folder, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed = serde_json::from_value(json::read(index)?);
    let index: Index = parsed.with_context(|| format!("{}: not an index", index.display()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    names.iter().map(|name| folder.get(name)).collect()
}

/// All tensors of a file of at most so many bytes, which is read at once, and what its header says beside them.
///
/// # Errors
/// It cannot be read, or is no whole safetensors file.
pub fn read_safetensors(path: &Path, most: u64) -> Result<(HashMap<String, Tensor>, HashMap<String, String>)> {
    let place = || format!("{}: not a whole safetensors file", path.display());
    open_plain(path).map_err(Into::into).and_then(|mut file| check_header(&mut file)).with_context(place)?;
    let bytes = read_up_to(path, most)?;
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).with_context(place)?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).with_context(place)?;
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

/// Writes `tensors` with PyTorch's format mark, so that transformers loads them, and syncs the file.
///
/// # Errors
/// The file cannot be written; a half-written one may remain, so write to a temporary place.
pub fn save_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    save_safetensors_noting(path, tensors, &[])
}

/// [`save_safetensors`] with `notes`, names and texts, in the header.
///
/// # Errors
/// As there.
pub fn save_safetensors_noting(path: &Path, tensors: &[(String, Tensor)], notes: &[(&str, &str)]) -> Result<()> {
    let notes = notes.iter().chain(&[("format", "pt")]);
    let metadata = notes.map(|(name, text)| (name.to_string(), text.to_string())).collect::<HashMap<_, _>>();
    let contiguous: Vec<(&str, Tensor)> =
        tensors.iter().map(|(name, t)| Ok((name.as_str(), t.contiguous()?))).collect::<Result<_>>()?;
    let write = || -> Result<()> {
        // The library makes files that only their owner can read; a new file's own rights are what the user expects.
        let rights = std::fs::File::create(path)?.metadata()?.permissions();
        safetensors::serialize_to_file(contiguous, Some(metadata), path)?;
        std::fs::set_permissions(path, rights)?;
        Ok(std::fs::File::open(path)?.sync_all()?)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Source;

    #[test]
    fn a_name_is_in_one_shard_only() {
        let dir = tempfile::tempdir().unwrap();
        let save = |file: &str, names: &[&str]| {
            let tensor = |name: &&str| (name.to_string(), Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap());
            save_safetensors(&dir.path().join(file), &names.iter().map(tensor).collect::<Vec<_>>()).unwrap();
        };
        let map = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        std::fs::write(dir.path().join("model.safetensors.index.json"), map).unwrap();
        let files = ModelFiles::open(&Source::Folder(dir.path().to_path_buf())).unwrap();
        let open = || WeightFiles::open(Folder::top(&files), TRANSFORMERS);
        save("one.safetensors", &["a", "LayerNorm.gamma"]);
        save("two.safetensors", &["b"]);
        let weights = open().unwrap();
        assert_eq!(weights.shapes().into_keys().collect::<Vec<_>>(), ["LayerNorm.weight", "a", "b"]);
        assert!(weights.get("LayerNorm.weight").is_ok() && weights.get("b").is_ok() && weights.get("c").is_err());
        for (name, told) in [("a", "tensor a"), ("LayerNorm.weight", "tensor LayerNorm.weight")] {
            save("two.safetensors", &["b", name]);
            let error = open().err().unwrap().to_string();
            assert!(error.contains(&format!("{told} is there twice in one.safetensors, two.safetensors")), "{error}");
        }
    }
}
