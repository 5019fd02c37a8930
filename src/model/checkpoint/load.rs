//! Strict loading: every declared weight is found, every tensor of the file is used or ignored for a stated reason.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde_json::Value;

use super::source::WeightFiles;
use crate::error::ProblemList;
use crate::hub::ModelFiles;
use crate::model::{ClipConfig, ClipModel, ParamSpec, Params, interpolate};
use crate::ops::physical_memory_mib;

/// Tensors that files carry and the model does not need: name ending, reason.
const IGNORED: &[(&str, &str)] = &[("embeddings.position_ids", "row numbers 0, 1, 2, …, not a weight")];

const IMAGE_POSITIONS: &str = "vision_model.embeddings.position_embedding.weight";
const TEXT_POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

/// Changes to the shape of the model, made only where the config asks for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Another image size: image positions are interpolated.
    pub image_size: Option<usize>,
    /// Another text length: text positions are interpolated or cut.
    pub context_length: Option<usize>,
}

/// A model as read.
pub struct Loaded {
    /// Its shape, after the changes asked for.
    pub config: ClipConfig,
    /// `config.json` as it was, to be written back with only the shape changed.
    pub config_json: Value,
    /// Its weights, all trainable.
    pub params: Params,
    /// Tensors of the file that were ignored, with reasons.
    pub ignored: Vec<(String, &'static str)>,
}

/// Loads a Hugging Face CLIP strictly.
///
/// # Errors
/// All missing tensors, unknown tensors and wrong shapes at once; unreadable files.
pub fn load(files: &ModelFiles, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    let path = files.get("config.json")?;
    let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let config_json: Value = serde_json::from_slice(&text).with_context(|| format!("{}: not JSON", path.display()))?;
    let stored = ClipConfig::from_json(&config_json).with_context(|| path.display().to_string())?;
    let mut config = stored.clone();
    config.vision.image_size = options.image_size.unwrap_or(config.vision.image_size);
    config.text.context_length = options.context_length.unwrap_or(config.text.context_length);
    config.check().with_context(|| format!("{} with the image_size asked for", path.display()))?;

    let weights = WeightFiles::open(files)?;
    let specs = ClipModel::specs(&stored)?;
    check_memory(&specs)?;
    let ignored = check(&weights, &specs).with_context(|| files.source().to_string())?;
    let shapes: std::collections::HashMap<String, candle_core::Shape> =
        ClipModel::specs(&config)?.into_iter().map(|s| (s.name, s.shape)).collect();
    // On all threads: what takes time is the first touch of each page.
    let read = |mut spec: ParamSpec| -> Result<(ParamSpec, Tensor)> {
        let tensor = weights.get(&spec.name).with_context(|| format!("{}: {}", files.source(), spec.name))?;
        let tensor = resize(&spec, tensor, &stored, &config)?;
        spec.shape = shapes[&spec.name].clone();
        Ok((spec, tensor.to_device(device)?))
    };
    let list = specs.into_par_iter().map(read).collect::<Result<Vec<_>>>()?;
    Ok(Loaded { config, config_json, params: Params::new(list)?, ignored })
}

/// Fresh weights for a model of this shape; a pure function of `seed`.
///
/// # Errors
/// Whatever the device reports.
pub fn random(config: &ClipConfig, seed: u64, device: &Device) -> Result<Params> {
    config.check()?;
    let specs = ClipModel::specs(config)?;
    check_memory(&specs)?;
    let weights = specs.into_par_iter().map(|s| s.random(seed, device).map(|t| (s, t)));
    Ok(Params::new(weights.collect::<candle_core::Result<Vec<_>>>()?)?)
}

/// Refuses a model whose weights alone do not fit, before memory is taken: the system would end the process otherwise.
fn check_memory(specs: &[ParamSpec]) -> Result<()> {
    let numbers: u128 = specs.iter().map(|s| s.shape.dims().iter().map(|&d| d as u128).product::<u128>()).sum();
    let (needed, there) = ((numbers * 4) >> 20, physical_memory_mib().map(u128::from));
    ensure!(
        there.is_none_or(|there| needed < there),
        "the model has {numbers} weights, which take {needed} MiB; this machine has {} MiB",
        there.unwrap_or_default()
    );
    Ok(())
}

/// All differences between what the file holds and what the model declares.
fn check(weights: &WeightFiles, specs: &[ParamSpec]) -> Result<Vec<(String, &'static str)>> {
    let mut unused = weights.shapes();
    let mut problems = ProblemList::default();
    for spec in specs {
        match unused.remove(&spec.name) {
            None => problems.push(format!("tensor {} {:?} is missing", spec.name, spec.shape.dims())),
            Some(shape) if shape != spec.shape.dims() => problems.push(format!(
                "tensor {} has shape {shape:?}, config.json asks for {:?}",
                spec.name,
                spec.shape.dims()
            )),
            Some(_) => {}
        }
    }
    let mut ignored = Vec::new();
    for name in unused.into_keys() {
        match IGNORED.iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, reason)) => ignored.push((name, *reason)),
            None => problems
                .push(format!("tensor {name} is in the file, but a CLIP of this config.json has no such weight")),
        }
    }
    summarise(problems)?;
    Ok(ignored)
}

/// A wrong config.json makes hundreds of problems: say the first few and how many there are.
fn summarise(problems: ProblemList) -> Result<()> {
    const SHOWN: usize = 3;
    let Err(problems) = problems.finish() else { return Ok(()) };
    let lines: BTreeSet<&str> = problems.0.iter().map(|p| p.0.as_str()).collect();
    let shown = lines.iter().take(SHOWN).copied().collect::<Vec<_>>().join("; ");
    let more = lines.len().saturating_sub(SHOWN);
    ensure!(more == 0, "{shown}; and {more} more of this kind: do weights and config.json belong together?");
    anyhow::bail!("{shown}")
}

fn resize(spec: &ParamSpec, tensor: Tensor, stored: &ClipConfig, wanted: &ClipConfig) -> Result<Tensor> {
    let (from, to) = (stored.vision.grid(), wanted.vision.grid());
    Ok(match spec.name.as_str() {
        IMAGE_POSITIONS if from != to => interpolate::image_positions(&tensor, from, to)?,
        TEXT_POSITIONS if stored.text.context_length != wanted.text.context_length => {
            interpolate::text_positions(&tensor, wanted.text.context_length)?
        }
        _ => tensor,
    })
}
