//! The files that hold tensors: safetensors, whole or in shards, and PyTorch's zip archives, whose pickle is parsed and
//! never executed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::pickle::PthTensors;
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};

use crate::hub::ModelFiles;

/// Weight files of one model, opened, nothing read yet but headers.
pub(super) enum WeightFiles {
    Safetensors(MmapedSafetensors),
    Pickle(Vec<PthTensors>),
}

impl WeightFiles {
    /// The first of model.safetensors, its sharded form, pytorch_model.bin, its sharded form.
    pub fn open(files: &ModelFiles) -> Result<Self> {
        if let Some(path) = files.find("model.safetensors")? {
            return open_safetensors(&[path]);
        }
        if let Some(index) = files.find("model.safetensors.index.json")? {
            return open_safetensors(&shards(files, &index)?);
        }
        if let Some(path) = files.find("pytorch_model.bin")? {
            return open_pickles(&[path]);
        }
        if let Some(index) = files.find("pytorch_model.bin.index.json")? {
            return open_pickles(&shards(files, &index)?);
        }
        bail!(
            "{}: no weights; looked for model.safetensors, model.safetensors.index.json, pytorch_model.bin and \
             pytorch_model.bin.index.json",
            files.source()
        )
    }

    /// Name → shape of everything inside.
    pub fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Safetensors(st) => {
                st.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
            }
            Self::Pickle(parts) => {
                let infos = parts.iter().flat_map(|p| p.tensor_infos().iter());
                infos.map(|(name, info)| (name.clone(), info.layout.dims().to_vec())).collect()
            }
        }
    }

    /// The tensor of this name in f32, on the CPU.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let tensor = match self {
            Self::Safetensors(st) => st.load(name, &Device::Cpu)?,
            Self::Pickle(parts) => {
                let holder = parts.iter().find(|p| p.tensor_infos().contains_key(name));
                let found = holder.map(|p| p.get(name)).transpose()?.flatten();
                found.with_context(|| format!("tensor {name} cannot be read from the archive"))?
            }
        };
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

fn open_safetensors(paths: &[PathBuf]) -> Result<WeightFiles> {
    for path in paths {
        check_not_lfs_pointer(path)?;
    }
    // SAFETY: the map is read-only and lives as long as the struct; the header and every offset are validated against
    // the file's length before use. A file that another process truncates meanwhile would fault, as in any mapper of
    // weights; checkpoints are replaced by rename, never rewritten in place.
    #[allow(unsafe_code)]
    let mapped = unsafe { MmapedSafetensors::multi(paths) };
    let names = paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    Ok(WeightFiles::Safetensors(mapped.with_context(|| format!("{names}: not a whole safetensors file"))?))
}

fn open_pickles(paths: &[PathBuf]) -> Result<WeightFiles> {
    let open = |path: &PathBuf| {
        check_not_lfs_pointer(path)?;
        let tensors = PthTensors::new(path, None);
        let tensors = tensors.with_context(|| {
            format!(
                "{}: not a PyTorch archive of plain tensors (code inside a pickle is never executed); \
                 convert it to safetensors with the program that made it",
                path.display()
            )
        })?;
        ensure!(!tensors.tensor_infos().is_empty(), "{}: holds no tensors at its top level", path.display());
        Ok(tensors)
    };
    paths.iter().map(open).collect::<Result<Vec<_>>>().map(WeightFiles::Pickle)
}

/// A repository cloned without Git LFS has small text files in place of weights.
fn check_not_lfs_pointer(path: &Path) -> Result<()> {
    use std::io::Read;
    let mut head = [0u8; 24];
    let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let n = file.read(&mut head).with_context(|| path.display().to_string())?;
    ensure!(
        !head[..n].starts_with(b"version https://git-lfs"),
        "{}: is a Git LFS pointer, not the weights; run `git lfs pull` in that folder",
        path.display()
    );
    Ok(())
}

/// The distinct files named by an index. Names come from outside: `ModelFiles::get` refuses those that leave the folder.
fn shards(files: &ModelFiles, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).with_context(|| index.display().to_string())?;
    let index: Index = serde_json::from_slice(&text).with_context(|| format!("{}: not an index", index.display()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    names.iter().map(|name| Ok(files.get(name)?)).collect()
}

/// Writes `tensors` with PyTorch's format mark, so that transformers loads them, and syncs the file.
///
/// # Errors
/// The file cannot be written; a half-written one may remain, so write to a temporary place.
pub fn save_safetensors(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
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
