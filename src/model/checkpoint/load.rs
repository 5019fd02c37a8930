//! Strict loading: every declared weight is found, every tensor of the file is used or ignored for a stated reason.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Shape, Tensor};
use rayon::prelude::*;
use serde_json::Value;

use super::files::{Checked, Ignored, Mapped, UnloadedModel};
use super::layout::{Family, Layout, SavedFile};
use super::pair::PairOptions;
use super::source::Folder;
use super::{bag_pooling, open_clip, pair, transformers};
use crate::error::ProblemList;
use crate::hub::{ModelFiles, Source};
use crate::model::format::rename::to_ours;
use crate::model::layers::interpolate;
use crate::model::{BagPoolingRequest, ClipConfig, ClipModel, Param, ParamSpec, Params};
use crate::ops::{physical_memory_mib, squared_sum};

/// What is asked for beside what the files say.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Another image size: image positions are interpolated.
    pub image_size: Option<usize>,
    /// The size that the preprocessing gives, for towers whose config names none.
    pub native_size: Option<usize>,
    /// Another text length: CLIP's text positions are interpolated or cut.
    pub context_length: Option<usize>,
    /// Another bag pooling than the model's own.
    pub bag_pooling: BagPoolingRequest,
    /// For weights that no file holds: the projections of a fresh pair.
    pub seed: u64,
}

/// A model as read.
pub struct Loaded {
    /// Its shape, after the changes asked for.
    pub config: ClipConfig,
    /// How it lay on disk.
    pub layout: Layout,
    /// Its weights, all trainable.
    pub params: Params,
    /// Tensors of the files that are no part of it.
    pub ignored: Vec<Ignored>,
    /// Weights that no file held.
    pub fresh: Vec<String>,
}

/// Reads the configs of a model in whichever layout the files have.
fn read_configs(files: &ModelFiles) -> Result<UnloadedModel<'_>> {
    let folder = Folder::top(files);
    if let Some(config) = folder.json(pair::CONFIG)? {
        return pair::read(folder, config).context(pair::CONFIG);
    }
    let config = folder.json("config.json")?;
    let model_type = config.as_ref().and_then(|c| c.get("model_type")).and_then(Value::as_str);
    let place = |file: &str| format!("{folder}: {file}");
    let in_config = |file: &str, error: anyhow::Error| {
        // What is wrong with a file of weights is told by its own name.
        let names_itself = error.to_string().split(": ").next().is_some_and(|start| Path::new(start).is_file());
        if names_itself { error } else { error.context(place(file)) }
    };
    match (model_type.and_then(transformers::WholeModel::find), config) {
        (Some(whole), Some(config)) => {
            transformers::read(folder, config, whole).map_err(|e| in_config("config.json", e))
        }
        (None, Some(config)) if model_type_is_dual(&config) => {
            pair::read_dual_encoder(folder, config).map_err(|e| in_config("config.json", e))
        }
        (_, config) => match (folder.json(open_clip::CONFIG)?, config) {
            (Some(open_clip), _) => open_clip::read(folder, open_clip).map_err(|e| in_config(open_clip::CONFIG, e)),
            (None, Some(config)) => Err(pair::not_a_whole_model(&config).context(place("config.json"))),
            (None, None) => bail!(
                "{folder}: no model; looked for config.json (transformers), {} and {}{}",
                open_clip::CONFIG,
                pair::CONFIG,
                in_run(files)
            ),
        },
    }
}

fn model_type_is_dual(config: &Value) -> bool {
    config.get("model_type").is_some_and(|name| name == pair::DUAL_ENCODER)
}

/// Loads a whole model strictly, in whichever layout the files have.
///
/// # Errors
/// All missing tensors, unknown tensors and wrong shapes at once; unreadable files.
pub fn load(files: &ModelFiles, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    let mut model = read_configs(files)?;
    bag_pooling::attach(&mut model, Some(Folder::top(files)), &options.bag_pooling)?;
    finish(model, options, device)
}

/// Loads two towers strictly and puts fresh projections on them.
///
/// # Errors
/// As [`load`].
pub fn load_pair(
    image: &ModelFiles,
    text: &ModelFiles,
    pairing: &PairOptions,
    options: &LoadOptions,
    device: &Device,
) -> Result<Loaded> {
    let mut model = pair::compose(Folder::top(image), Folder::top(text), pairing)?;
    bag_pooling::attach(&mut model, None, &options.bag_pooling)?;
    finish(model, options, device)
}

impl Loaded {
    /// The model type of transformers whose preprocessing the model has where its files say none.
    pub fn preprocessing(&self) -> &'static str {
        self.layout.family.preprocessing().unwrap_or(self.config.vision.preprocessing())
    }
}

/// What is told of a model without loading it.
pub struct Inspection {
    /// Its shape.
    pub config: ClipConfig,
    /// Whose layout it has.
    pub family: Family,
    /// Its weights, with what each is.
    pub specs: Vec<ParamSpec>,
    /// Which of them is which tensor.
    pub mapped: Vec<Mapped>,
    /// Tensors that are no part of it.
    pub ignored: Vec<Ignored>,
    /// Why it would be refused; empty if it would not.
    pub problems: Vec<String>,
}

/// Reads a model's configs and compares what its files hold with what it declares.
///
/// # Errors
/// A config that makes no model; unreadable files.
pub fn inspect(files: &ModelFiles) -> Result<Inspection> {
    let mut model = read_configs(files)?;
    bag_pooling::attach(&mut model, Some(Folder::top(files)), &BagPoolingRequest::default())?;
    model.config.check().with_context(|| model.place())?;
    let specs = ClipModel::specs(&model.config)?;
    let Checked { mapped, ignored, mut problems, .. } = model.check(&specs);
    if let Err(error) = check_memory(&specs) {
        problems.push(format!("{error:#}"));
    }
    let problems = problems.finish().err().map(|p| p.0.into_iter().map(|p| p.0).collect()).unwrap_or_default();
    Ok(Inspection { config: model.config, family: model.family, specs, mapped, ignored, problems })
}

fn finish(mut model: UnloadedModel, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    if let Some(size) = options.native_size.filter(|_| model.config.vision.takes_any_size()) {
        model.config.vision.set_image_size(size);
    }
    let stored = model.config.clone();
    stored.check().with_context(|| model.place())?;
    let mut config = stored.clone();
    if let Some(size) = options.image_size {
        if let Some(reason) = config.vision.fixed_size() {
            ensure!(
                size == config.vision.image_size(),
                "model.image_size: is {size}; this tower {reason}, so allowed is {}",
                config.vision.image_size()
            );
        }
        config.vision.set_image_size(size);
    }
    if let Some(length) = options.context_length {
        config.text.set_context_length(length);
    }
    config.check().with_context(|| format!("{} with the sizes asked for", model.place()))?;

    let specs = ClipModel::specs(&stored)?;
    check_memory(&specs)?;
    let Checked { ignored, fresh, carried, problems, .. } = model.check(&specs);
    summarise(problems).with_context(|| model.place())?;
    for (file, name) in carried {
        let file = &mut model.files[file];
        let tensor = file.weights.get_as_stored(&name).with_context(|| format!("{}: {name}", file.folder))?;
        let name = name.strip_prefix(file.prefix).unwrap_or(&name).to_string();
        file.saved.carried.push((name, tensor));
    }
    let shapes: HashMap<String, Shape> = ClipModel::specs(&config)?.into_iter().map(|s| (s.name, s.shape)).collect();
    let not_finite = Mutex::new(BTreeMap::new());
    // On all threads: what takes time is the first touch of each page. Each weight is made of its tensor at once, a
    // thread's largest first: what they free is taken by those that follow, and the process is left with little more
    // than its weights.
    let mut specs = specs;
    specs.sort_by_key(|spec| Reverse(spec.shape.elem_count()));
    let read = |mut spec: ParamSpec| -> Result<Param> {
        let tensor = match model.home(&spec.name) {
            None => spec.random(options.seed, device)?,
            Some((part, name, how)) => {
                let tensor = model.files[part].weights.get(&name);
                let tensor = tensor.with_context(|| format!("{}: {name}", model.files[part].folder))?;
                if !squared_sum(&tensor)?.is_finite() {
                    not_finite.lock().unwrap_or_else(PoisonError::into_inner).insert(name, count_not_finite(&tensor)?);
                }
                resize(&spec, to_ours(&tensor, how, &spec.shape)?, &stored, &config)?
            }
        };
        spec.shape = shapes[&spec.name].clone();
        Ok(Param::new(spec, &tensor.to_device(device)?)?)
    };
    let list = specs.into_par_iter().map(read).collect::<Result<Vec<_>>>()?;
    refuse_not_finite(&not_finite.into_inner().unwrap_or_else(PoisonError::into_inner))
        .with_context(|| model.place())?;
    let files: Vec<SavedFile> = model.files.into_iter().map(|file| file.saved).collect();
    let files = match model.fresh_heads {
        Some(config) => pair::written(model.family, config, files),
        None => files,
    };
    let files = files.into_iter().chain(model.fresh_bag_pooling).collect();
    let layout = Layout { family: model.family, files, beside: model.beside };
    Ok(Loaded { config, layout, params: Params::of(list), ignored, fresh })
}

fn count_not_finite(tensor: &Tensor) -> Result<usize> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().filter(|weight| !weight.is_finite()).count())
}

/// Every feature of such a model is NaN, and training would be blamed for it. `found`: tensor → how many.
fn refuse_not_finite(found: &BTreeMap<String, usize>) -> Result<()> {
    let Some((first, count)) = found.iter().next() else { return Ok(()) };
    bail!(
        "{} weights of {} tensors are NaN or infinite, first {count} in tensor {first}; the file is damaged, or its \
         training diverged",
        found.values().sum::<usize>(),
        found.len()
    )
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

/// A run's folder is no model, but has one.
fn in_run(files: &ModelFiles) -> String {
    match files.source() {
        Source::Folder(folder) if folder.join("model").is_dir() => {
            format!("; a run's model is in its folder model: {}", folder.join("model").display())
        }
        _ => String::new(),
    }
}

/// A wrong config.json makes hundreds of problems: say the first few and how many there are.
fn summarise(problems: ProblemList) -> Result<()> {
    const SHOWN: usize = 3;
    let Err(problems) = problems.finish() else { return Ok(()) };
    let lines: BTreeSet<&str> = problems.0.iter().map(|p| p.0.as_str()).collect();
    let shown = lines.iter().take(SHOWN).copied().collect::<Vec<_>>().join("; ");
    let more = lines.len().saturating_sub(SHOWN);
    ensure!(more == 0, "{shown}; and {more} more of this kind: do weights and config belong together?");
    bail!("{shown}")
}

fn resize(spec: &ParamSpec, tensor: Tensor, stored: &ClipConfig, wanted: &ClipConfig) -> Result<Tensor> {
    let behind = |tower: &str| spec.name.strip_prefix(tower);
    if let (Some(from), Some(to)) = (stored.vision.learnt_positions(), wanted.vision.learnt_positions())
        && behind("vision_model.") == Some(from.weight)
        && from.grid != to.grid
    {
        return Ok(interpolate::image_positions(&tensor, from.before, from.grid, to.grid)?);
    }
    // Where no such weight is named, the table stays whole: a shorter text uses its first rows.
    if behind("text_model.").is_some_and(|weight| stored.text.learnt_positions() == Some(weight))
        && stored.text.context_length() != wanted.text.context_length()
    {
        return Ok(interpolate::text_positions(&tensor, wanted.text.context_length())?);
    }
    Ok(tensor)
}
