//! Strict loading: every declared weight is found, every tensor of the file is used or ignored for a stated reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Shape, Tensor};
use rayon::prelude::*;
use serde_json::Value;

use super::layout::{Family, Layout, Part};
use super::rename::{How, foreign_shape, matches, to_ours};
use super::source::{Folder, OPEN_CLIP, PAIR_HEADS, TRANSFORMERS, WeightFiles};
use super::{Ignored, Mapped, PairOptions, Unused, change_in_words, family, open_clip, pair};
use crate::error::ProblemList;
use crate::hub::ModelFiles;
use crate::model::config::{TextConfig, VisionConfig};
use crate::model::{ClipConfig, ClipModel, ParamSpec, Params, Part as Tower, interpolate};
use crate::ops::physical_memory_mib;

const IMAGE_POSITIONS: &str = "vision_model.embeddings.position_embedding.weight";
const POOL_POSITIONS: &str = "vision_model.attention_pool.position_embedding.weight";
const TEXT_POSITIONS: &str = "text_model.embeddings.position_embedding.weight";

/// What is asked for beside what the files say.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Another image size: image positions are interpolated.
    pub image_size: Option<usize>,
    /// The size that the preprocessing gives, for towers whose config names none.
    pub native_size: Option<usize>,
    /// Another text length: CLIP's text positions are interpolated or cut.
    pub context_length: Option<usize>,
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

/// A model whose configs are read and whose weights are not.
pub(super) struct Draft<'a> {
    pub config: ClipConfig,
    pub family: Family,
    pub parts: Vec<PartDraft<'a>>,
    /// Where no file holds the heads: the config that a file with them will have.
    pub fresh_heads: Option<Value>,
    /// As in [`Layout`].
    pub beside: Vec<(String, Value)>,
}

pub(super) struct PartDraft<'a> {
    pub part: Part,
    folder: Folder<'a>,
    weights: WeightFiles,
    /// What stands before all names in the file, and is left out when the part is written.
    prefix: &'static str,
    /// Tensors that are not needed, by pattern behind a prefix.
    unused: Vec<(String, Unused)>,
    /// Tensors that begin so belong to something else, with the reason.
    foreign: &'static [(&'static str, &'static str)],
}

impl<'a> PartDraft<'a> {
    pub fn open(folder: Folder<'a>, part: Part, unused: Vec<(String, Unused)>) -> Result<Self> {
        let names = match part.config_file {
            open_clip::CONFIG => OPEN_CLIP,
            pair::CONFIG => PAIR_HEADS,
            _ => TRANSFORMERS,
        };
        Ok(Self::with_weights(folder, part, WeightFiles::open(folder, names)?, unused))
    }

    pub fn with_weights(folder: Folder<'a>, part: Part, weights: WeightFiles, unused: Vec<(String, Unused)>) -> Self {
        Self { part, folder, weights, prefix: "", unused, foreign: &[] }
    }

    pub fn behind(self, prefix: &'static str, foreign: &'static [(&'static str, &'static str)]) -> Self {
        Self { prefix, foreign, ..self }
    }

    /// The file's name for our tensor.
    fn stored(&self, ours: &str) -> Option<(String, How)> {
        self.part.renames.foreign(ours).map(|(name, how)| (format!("{}{name}", self.prefix), how))
    }

    /// Why a tensor of the file is not needed, and whether it is carried along.
    fn unused(&self, name: &str) -> Option<(String, bool)> {
        let other = self.foreign.iter().find(|(start, _)| name.starts_with(start));
        if let Some((_, reason)) = other {
            return Some(((*reason).to_string(), false));
        }
        let Some(inner) = name.strip_prefix(self.prefix) else {
            return Some(("stands beside the tower".to_string(), false));
        };
        if name.ends_with(".num_batches_tracked") {
            return Some(("a counter of training, not a weight".into(), true));
        }
        let found = self.unused.iter().find(|(prefix, (pattern, ..))| {
            inner.strip_prefix(prefix.as_str()).is_some_and(|inner| matches(pattern, inner))
        });
        found.map(|(_, (_, reason, carried))| ((*reason).to_string(), *carried))
    }
}

/// What the files hold, compared with what the model wants.
pub(super) struct Checked {
    pub mapped: Vec<Mapped>,
    pub ignored: Vec<Ignored>,
    pub fresh: Vec<String>,
    /// Part and name of tensors to carry along.
    carried: Vec<(usize, String)>,
    pub problems: ProblemList,
}

impl Draft<'_> {
    /// The part that holds our tensor, with the file's name for it.
    fn home(&self, ours: &str) -> Option<(usize, String, How)> {
        self.parts.iter().enumerate().find_map(|(i, part)| part.stored(ours).map(|(name, how)| (i, name, how)))
    }

    /// All differences between what the files hold and what the model declares.
    pub fn check(&self, specs: &[ParamSpec]) -> Checked {
        let shapes: Vec<BTreeMap<String, Vec<usize>>> = self.parts.iter().map(|p| p.weights.shapes()).collect();
        let mut used = BTreeSet::new();
        let mut checked = Checked {
            mapped: Vec::new(),
            ignored: Vec::new(),
            fresh: Vec::new(),
            carried: Vec::new(),
            problems: ProblemList::default(),
        };
        for spec in specs {
            let Some((part, theirs, how)) = self.home(&spec.name) else {
                match spec.part {
                    Tower::Heads => checked.fresh.push(spec.name.clone()),
                    _ => checked.problems.push(format!("weight {} has no name in this layout", spec.name)),
                }
                continue;
            };
            let wanted = foreign_shape(&spec.shape, how);
            match shapes[part].get(&theirs) {
                None => checked.problems.push(format!("tensor {theirs} {wanted:?} is missing")),
                Some(shape) if *shape != wanted => checked.problems.push(format!(
                    "tensor {theirs} has shape {shape:?}, {} asks for {wanted:?}",
                    self.parts[part].part.config_file
                )),
                Some(shape) => checked.mapped.push(Mapped {
                    ours: spec.name.clone(),
                    theirs: theirs.clone(),
                    shape: shape.clone(),
                    change: change_in_words(how),
                }),
            }
            used.insert((part, theirs));
        }
        for (i, (part, shapes)) in self.parts.iter().zip(shapes).enumerate() {
            for name in shapes.into_keys().filter(|name| !used.contains(&(i, name.clone()))) {
                match part.unused(&name) {
                    Some((reason, carried)) => {
                        if carried {
                            checked.carried.push((i, name.clone()));
                        }
                        checked.ignored.push(Ignored { name, reason });
                    }
                    None => checked.problems.push(format!(
                        "tensor {name} is in the file, but a model of this {} has no such weight",
                        part.part.config_file
                    )),
                }
            }
        }
        checked
    }

    /// Where it all comes from, for messages.
    fn place(&self) -> String {
        self.parts.iter().map(|p| p.folder.to_string()).collect::<Vec<_>>().join(" and ")
    }
}

/// Reads the configs of a model in whichever layout the files have.
pub(super) fn draft(files: &ModelFiles) -> Result<Draft<'_>> {
    let folder = Folder::top(files);
    if let Some(config) = folder.json(pair::CONFIG)? {
        return pair::read(folder, config).context(pair::CONFIG);
    }
    let config = folder.json("config.json")?;
    let model_type = config.as_ref().and_then(|c| c.get("model_type")).and_then(Value::as_str);
    let family = match model_type {
        Some("clip") => Some(Family::Clip),
        Some("chinese_clip") => Some(Family::ChineseClip),
        Some("siglip") => Some(Family::Siglip),
        Some("siglip2") => Some(Family::Siglip2),
        Some("vision-text-dual-encoder") => Some(Family::DualEncoder),
        _ => None,
    };
    let place = |file: &str| format!("{folder}: {file}");
    match (family, config) {
        (Some(Family::DualEncoder), Some(config)) => {
            pair::read_dual_encoder(folder, config).with_context(|| place("config.json"))
        }
        (Some(family), Some(config)) => family::read(folder, config, family).with_context(|| place("config.json")),
        (_, config) => match (folder.json(open_clip::CONFIG)?, config) {
            (Some(open_clip), _) => open_clip::read(folder, open_clip).with_context(|| place(open_clip::CONFIG)),
            (None, Some(config)) => Err(pair::not_a_whole_model(&config).context(place("config.json"))),
            (None, None) => bail!(
                "{folder}: no model; looked for config.json (transformers), {} and {}",
                open_clip::CONFIG,
                pair::CONFIG
            ),
        },
    }
}

/// Loads a whole model strictly, in whichever layout the files have.
///
/// # Errors
/// All missing tensors, unknown tensors and wrong shapes at once; unreadable files.
pub fn load(files: &ModelFiles, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    finish(draft(files)?, options, device)
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
    finish(pair::compose(Folder::top(image), Folder::top(text), pairing)?, options, device)
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
    let draft = draft(files)?;
    draft.config.check().with_context(|| draft.place())?;
    let specs = ClipModel::specs(&draft.config)?;
    let Checked { mapped, ignored, mut problems, .. } = draft.check(&specs);
    if let Err(error) = check_memory(&specs) {
        problems.push(format!("{error:#}"));
    }
    let problems = problems.finish().err().map(|p| p.0.into_iter().map(|p| p.0).collect()).unwrap_or_default();
    Ok(Inspection { config: draft.config, family: draft.family, specs, mapped, ignored, problems })
}

fn finish(mut draft: Draft, options: &LoadOptions, device: &Device) -> Result<Loaded> {
    let says_size = !matches!(&draft.config.vision, VisionConfig::ConvNext(_))
        && !matches!(&draft.config.vision, VisionConfig::ResNet(c) if !c.clip);
    if let Some(size) = options.native_size.filter(|_| !says_size) {
        draft.config.vision.set_image_size(size);
    }
    let stored = draft.config.clone();
    stored.check().with_context(|| draft.place())?;
    let mut config = stored.clone();
    if let Some(size) = options.image_size {
        let fixed = matches!(&config.vision, VisionConfig::Vit(vit) if vit.relative_positions);
        ensure!(
            !fixed || size == config.vision.image_size(),
            "model.image_size: is {size}; this tower has learnt scores by relative position, so allowed is {}",
            config.vision.image_size()
        );
        config.vision.set_image_size(size);
    }
    if let Some(length) = options.context_length {
        config.text.set_context_length(length);
    }
    config.check().with_context(|| format!("{} with the sizes asked for", draft.place()))?;

    let specs = ClipModel::specs(&stored)?;
    check_memory(&specs)?;
    let Checked { ignored, fresh, carried, problems, .. } = draft.check(&specs);
    summarise(problems).with_context(|| draft.place())?;
    for (part, name) in carried {
        let tensor = draft.parts[part].weights.get_as_stored(&name)?;
        let name = name.strip_prefix(draft.parts[part].prefix).unwrap_or(&name).to_string();
        draft.parts[part].part.carried.push((name, tensor));
    }
    let shapes: HashMap<String, Shape> = ClipModel::specs(&config)?.into_iter().map(|s| (s.name, s.shape)).collect();
    // On all threads: what takes time is the first touch of each page.
    let read = |mut spec: ParamSpec| -> Result<(ParamSpec, Tensor)> {
        let tensor = match draft.home(&spec.name) {
            None => spec.random(options.seed, device)?,
            Some((part, name, how)) => {
                let tensor = draft.parts[part].weights.get(&name);
                let tensor = tensor.with_context(|| format!("{}: {name}", draft.parts[part].folder))?;
                resize(&spec, to_ours(&tensor, how, &spec.shape)?, &stored, &config)?
            }
        };
        spec.shape = shapes[&spec.name].clone();
        Ok((spec, tensor.to_device(device)?))
    };
    let list = specs.into_par_iter().map(read).collect::<Result<Vec<_>>>()?;
    let parts: Vec<Part> = draft.parts.into_iter().map(|p| p.part).collect();
    let parts = match draft.fresh_heads {
        Some(config) => pair::written(draft.family, config, parts),
        None => parts,
    };
    let layout = Layout { family: draft.family, parts, beside: draft.beside };
    Ok(Loaded { config, layout, params: Params::new(list)?, ignored, fresh })
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
    // (rows before the grid's, the grid's side)
    let image = |c: &ClipConfig| match &c.vision {
        VisionConfig::Vit(vit) => (vit.position_rows_before_patches(), vit.grid()),
        VisionConfig::ResNet(resnet) => (1, resnet.grid()),
        _ => (0, 0),
    };
    let ((before, from), (_, to)) = (image(stored), image(wanted));
    let length = |c: &ClipConfig| match &c.text {
        TextConfig::Clip(text) => text.context_length,
        // A BERT's table stays whole: a shorter text uses its first rows.
        TextConfig::Bert(_) => 0,
    };
    Ok(match spec.name.as_str() {
        IMAGE_POSITIONS | POOL_POSITIONS if from != to => interpolate::image_positions(&tensor, before, from, to)?,
        TEXT_POSITIONS if length(stored) != length(wanted) => interpolate::text_positions(&tensor, length(wanted))?,
        _ => tensor,
    })
}
