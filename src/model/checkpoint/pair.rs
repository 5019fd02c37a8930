//! Two towers of transformers: in one VisionTextDualEncoder, in two repositories to be paired afresh, or in our own
//! layout for pairs that transformers has no class for.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::files::{UnloadedFile, UnloadedModel};
use super::layout::{Family, SavedFile};
use super::source::{Folder, PAIR_HEADS, TRANSFORMERS, WeightFiles};
use super::transformers::WholeModel;
use crate::hub::ModelFiles;
use crate::model::config::{ClipConfig, LOGIT_SCALE_INIT};
use crate::model::format::json::Section;
use crate::model::format::rename::{How, Renames, Rule};
use crate::model::format::{Pooling, TowerFormat, Unused};
use crate::model::layers::bag_pool::BagPooling;
use crate::model::layers::projection::Projection;
use crate::model::text::tower::TextConfig;
use crate::model::towers::{self, model_type};
use crate::model::vision::tower::VisionConfig;

/// transformers' word for its pairs of towers.
pub(super) const DUAL_ENCODER: &str = "vision-text-dual-encoder";

/// Config of our own layout, beside the folders `vision` and `text` and `heads.safetensors`.
pub(super) const CONFIG: &str = "reportclip.json";

/// How two towers become a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairOptions {
    /// State of an image; `None` = the tower's own.
    pub image_pooling: Option<Pooling>,
    /// State of a text; `None` = the tower's own.
    pub text_pooling: Option<Pooling>,
    /// Whether projections have two layers.
    pub mlp: bool,
    /// Width of the shared space.
    pub embed_dim: usize,
}

const LINEAR: &[Rule] = &[
    ("visual_projection.weight", "visual_projection.weight", How::Same),
    ("text_projection.weight", "text_projection.weight", How::Same),
    ("logit_scale", "logit_scale", How::Same),
];

const HEADS: &[Rule] = &[
    ("visual_projection.*.weight", "visual_projection.*.weight", How::Same),
    ("text_projection.*.weight", "text_projection.*.weight", How::Same),
];

impl PairOptions {
    fn projection(&self, width: usize) -> Projection {
        if self.mlp {
            Projection::Mlp { hidden: (width + self.embed_dim) / 2, biases: (false, false) }
        } else {
            Projection::Linear { bias: false }
        }
    }

    fn model(&self, vision: Box<dyn VisionConfig>, text: Box<dyn TextConfig>, logit_scale_init: f64) -> ClipConfig {
        ClipConfig {
            visual_projection: self.projection(vision.width()),
            text_projection: self.projection(text.width()),
            vision,
            text,
            embed_dim: self.embed_dim,
            logit_scale_init,
            logit_bias_init: None,
            bag_pooling: BagPooling::Mean,
        }
    }

    fn to_json(self, logit_scale_init: f64) -> Value {
        let word = |p: Option<Pooling>| p.unwrap_or(Pooling::Pooler).word();
        json!({
            "format": "reportclip pair 1", "image_pooling": word(self.image_pooling),
            "text_pooling": word(self.text_pooling), "projection": if self.mlp { "mlp" } else { "linear" },
            "embed_dim": self.embed_dim, "logit_scale_init_value": logit_scale_init,
        })
    }
}

/// A tower that a folder of transformers' holds: its row of the table, its config, what stands before its names.
struct FoundTower<'a, C: 'static> {
    format: &'static TowerFormat<C>,
    config: C,
    json: Value,
    folder: Folder<'a>,
    weights: WeightFiles,
    renames: Renames,
    prefix: &'static str,
    pooling: Pooling,
}

fn is_vision(config: &Value) -> bool {
    towers::vision_format(config).is_ok_and(|format| !format.whole_only)
}

fn is_text(config: &Value) -> bool {
    towers::text_format(config).is_ok_and(|format| !format.whole_only)
}

/// What to say of a config.json that is no dual encoder's.
pub(super) fn not_a_whole_model(config: &Value) -> anyhow::Error {
    let name = model_type(config);
    match (is_vision(config), is_text(config)) {
        (true, _) => anyhow::anyhow!(
            "model_type is {name:?}, an image tower alone; name it as model.image, and a text tower as model.text"
        ),
        (_, true) => anyhow::anyhow!(
            "model_type is {name:?}, a text tower alone; name it as model.text, and an image tower as model.image"
        ),
        _ if name.is_empty() => {
            anyhow::anyhow!("it has no model_type; a Hugging Face CLIP says \"model_type\": \"clip\"")
        }
        _ => anyhow::anyhow!(
            "model_type is {name:?}; this version loads \"clip\", \"chinese_clip\", \"siglip\", \"siglip2\", \
             \"vision-text-dual-encoder\", and pairs of towers by model.image and model.text"
        ),
    }
}

/// Whether the files hold one tower rather than a whole model.
///
/// # Errors
/// Unreadable files.
pub fn is_tower(files: &ModelFiles) -> Result<bool> {
    let Some(config) = Folder::top(files).json("config.json")? else { return Ok(false) };
    let name = model_type(&config);
    let whole = name == DUAL_ENCODER || WholeModel::find(name).is_some();
    Ok(!whole && (is_vision(&config) || is_text(&config)))
}

/// Fetches and opens what a pair needs of a tower's files; says how many numbers its weights hold.
///
/// # Errors
/// Anything that is missing or broken.
pub fn open_tower(files: &ModelFiles) -> Result<usize> {
    let folder = Folder::top(files);
    let config = folder.json("config.json")?.unwrap_or_default();
    let weights = if is_vision(&config) {
        find_tower(folder, None, towers::vision_format, "vision_model.")?.weights
    } else {
        find_tower(folder, sentence_pooling(folder)?, towers::text_format, "text_model.")?.weights
    };
    Ok(weights.shapes().values().map(|shape| shape.iter().product::<usize>()).sum())
}

/// The tower's own section of a config, which in a whole CLIP is one of two.
fn own(config: Value, section: &str) -> Value {
    match (section.is_empty(), config.get(section)) {
        (false, Some(inner)) => {
            let mut inner = inner.clone();
            if inner.get("model_type").is_none() {
                let tower = if section.starts_with("vision") { "vision" } else { "text" };
                inner["model_type"] = json!(format!("{}_{tower}_model", model_type(&config)));
            }
            inner
        }
        _ => config,
    }
}

/// The prefix under which a file has most of a tower's tensors.
fn prefix_of(prefixes: &[&'static str], weights: &WeightFiles, renames: &Renames) -> &'static str {
    let shapes = weights.shapes();
    let known = |prefix: &str| {
        shapes.keys().filter(|name| name.strip_prefix(prefix).is_some_and(|name| renames.knows(name))).count()
    };
    prefixes.iter().rev().copied().max_by_key(|prefix| known(prefix)).unwrap_or("")
}

/// The pooling of a sentence-transformers model, which stands in a folder of its own.
fn sentence_pooling(folder: Folder) -> Result<Option<Pooling>> {
    let Some(json) = folder.json("1_Pooling/config.json")? else { return Ok(None) };
    let says = |key: &str| json.get(key).and_then(Value::as_bool) == Some(true);
    Ok(match (says("pooling_mode_mean_tokens"), says("pooling_mode_cls_token")) {
        (true, false) => Some(Pooling::Mean),
        (false, true) => Some(Pooling::Cls),
        _ => None,
    })
}

/// The state that stands for the whole where nobody asks for one.
fn own_pooling<C>(format: &TowerFormat<C>, prefix: &str, weights: &WeightFiles) -> Pooling {
    match format.pooler {
        Some(weight) if !weights.shapes().contains_key(&format!("{prefix}{weight}")) => Pooling::Cls,
        Some(_) => Pooling::Pooler,
        None => format.pooling,
    }
}

/// The tower of a folder whose form `find` knows; `ours` stands before all our names of its weights.
fn find_tower<'a, C>(
    folder: Folder<'a>,
    pooling: Option<Pooling>,
    find: fn(&Value) -> Result<&'static TowerFormat<C>>,
    ours: &str,
) -> Result<FoundTower<'a, C>> {
    let config = folder.json("config.json")?.with_context(|| format!("{folder}: has no config.json"))?;
    let place = || format!("{folder}: config.json");
    let format = find(&config).with_context(place)?;
    ensure!(!format.whole_only, "{folder}: config.json: {:?} is a part of a whole model only", model_type(&config));
    let json = own(config, format.section);
    let section = Section { name: "", json: &json };
    let weights = WeightFiles::open(folder, TRANSFORMERS)?;
    let mut renames = Renames::default();
    format.add_names(&section, &mut renames, "", ours).with_context(place)?;
    let prefix = prefix_of(format.prefixes, &weights, &renames);
    let pooling = pooling.unwrap_or_else(|| own_pooling(format, prefix, &weights));
    let config = (format.read)(&section, pooling).with_context(place)?;
    Ok(FoundTower { format, config, json, folder, weights, renames, prefix, pooling })
}

impl<'a, C> FoundTower<'a, C> {
    /// Its file, to be written to `folder`; tensors that begin as `foreign` are not its own.
    fn into_file(self, folder: &'static str, foreign: &'static [(&'static str, &'static str)]) -> UnloadedFile<'a> {
        let saved = saved(folder, "config.json", self.json, self.renames);
        UnloadedFile::new(self.folder, saved, self.weights, unused(self.format.unused, "")).behind(self.prefix, foreign)
    }
}

fn unused(table: &'static [Unused], prefix: &str) -> Vec<(String, Unused)> {
    table.iter().map(|unused| (prefix.to_string(), *unused)).collect()
}

const NOT_TEXT: &[(&str, &str)] = &[
    ("text_model.", "the other tower's"),
    ("text_projection.", "the other tower's"),
    ("visual_projection.", "replaced by a fresh one"),
    ("logit_", "replaced by a fresh one"),
];
const NOT_VISION: &[(&str, &str)] = &[
    ("vision_model.", "the other tower's"),
    ("visual_projection.", "the other tower's"),
    ("text_projection.", "replaced by a fresh one"),
    ("logit_", "replaced by a fresh one"),
];

/// Two repositories, paired afresh.
pub(super) fn compose<'a>(image: Folder<'a>, text: Folder<'a>, options: &PairOptions) -> Result<UnloadedModel<'a>> {
    let vision_format = towers::vision_format;
    let image = find_tower(image, options.image_pooling, vision_format, "vision_model.").context("model.image")?;
    let asked = match options.text_pooling {
        Some(asked) => Some(asked),
        None => sentence_pooling(text).context("model.text")?,
    };
    let text = find_tower(text, asked, towers::text_format, "text_model.").context("model.text")?;
    let options = PairOptions { image_pooling: Some(image.pooling), text_pooling: Some(text.pooling), ..*options };
    let config = options.model(image.config.clone(), text.config.clone(), LOGIT_SCALE_INIT);
    // transformers' class takes what it calls pooler_output, through one matrix.
    let pooler = (image.format.read)(&Section { name: "", json: &image.json }, Pooling::Pooler);
    let as_pooler = pooler.is_ok_and(|pooler| *pooler == *image.config) && text.pooling == Pooling::Pooler;
    let merged = as_pooler && image.format.pairs && text.format.pairs && !options.mlp;
    let (family, heads) = if merged {
        let json = json!({
            "model_type": DUAL_ENCODER, "architectures": ["VisionTextDualEncoderModel"],
            "projection_dim": options.embed_dim, "logit_scale_init_value": LOGIT_SCALE_INIT,
            "vision_config": image.json, "text_config": text.json,
        });
        (Family::DualEncoder, json)
    } else {
        (Family::Pair, options.to_json(LOGIT_SCALE_INIT))
    };
    let files = vec![image.into_file("vision", NOT_TEXT), text.into_file("text", NOT_VISION)];
    Ok(UnloadedModel { config, family, files, fresh_heads: Some(heads), fresh_bag_pooling: None, beside: Vec::new() })
}

fn saved(folder: &'static str, config_file: &'static str, config: Value, renames: Renames) -> SavedFile {
    let weights_file = if config_file == CONFIG { "heads.safetensors" } else { "model.safetensors" };
    SavedFile { folder, config_file, config, weights_file, renames, carried: Vec::new() }
}

/// Where a fresh pair is written: as one dual encoder of transformers, or in our layout.
pub(super) fn written(family: Family, config: Value, towers: Vec<SavedFile>) -> Vec<SavedFile> {
    let mut heads = Renames::default();
    heads.add(HEADS, "", "");
    heads.add(LINEAR, "", "");
    if family == Family::Pair {
        let heads = saved("", CONFIG, config, heads);
        return towers.into_iter().chain([heads]).collect();
    }
    let mut all = saved("", "config.json", config, heads);
    for tower in towers {
        let prefix = format!("{}_model.", tower.folder);
        all.renames.append(tower.renames, &prefix);
        all.carried.extend(tower.carried.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    vec![all]
}

/// Our own layout.
pub(super) fn read(folder: Folder, config: Value) -> Result<UnloadedModel> {
    let top = Section { name: "", json: &config };
    let pooling = |key: &str| -> Result<Option<Pooling>> {
        let word = top.text(key)?.unwrap_or("pooler");
        let known = Pooling::from_word(word);
        Ok(Some(known.with_context(|| format!("{key} is {word:?}; known are cls, mean, eos and pooler"))?))
    };
    let mlp = match top.text("projection")?.unwrap_or("linear") {
        "mlp" => true,
        "linear" => false,
        other => bail!("projection is {other:?}; known are linear and mlp"),
    };
    let options = PairOptions {
        image_pooling: pooling("image_pooling")?,
        text_pooling: pooling("text_pooling")?,
        mlp,
        embed_dim: top.size("embed_dim", 512)?,
    };
    let inner = |name| Folder { files: folder.files, name };
    let mut model = compose(inner("vision"), inner("text"), &options)?;
    model.config.logit_scale_init = top.number("logit_scale_init_value", LOGIT_SCALE_INIT)?;
    model.family = Family::Pair;
    model.fresh_heads = None;
    let mut heads = Renames::default();
    heads.add(HEADS, "", "");
    heads.add(LINEAR, "", "");
    let weights = WeightFiles::open(folder, PAIR_HEADS)?;
    model.files.push(UnloadedFile::new(folder, saved("", CONFIG, config, heads), weights, Vec::new()));
    Ok(model)
}

/// A VisionTextDualEncoder.
pub(super) fn read_dual_encoder(folder: Folder, config: Value) -> Result<UnloadedModel> {
    let top = Section { name: "", json: &config };
    let (image, words) = (Section::of(&config, "vision_config"), Section::of(&config, "text_config"));
    let vision_format = towers::vision_format(image.json).context("vision_config")?;
    let text_format = towers::text_format(words.json).context("text_config")?;
    ensure!(vision_format.pairs, "vision_config: {:?} has no pooler_output of rank 2", model_type(image.json));
    ensure!(text_format.pairs, "text_config: {:?} has no pooler_output", model_type(words.json));
    let vision = (vision_format.read)(&image, Pooling::Pooler)?;
    let text = (text_format.read)(&words, Pooling::Pooler)?;
    let weights = WeightFiles::open(folder, TRANSFORMERS)?;
    let mut renames = Renames::default();
    // transformers 4 nests CLIP's tower once more than 5.
    let nested = weights.shapes().keys().any(|name| name.starts_with("vision_model.vision_model."));
    let prefix = if nested { "vision_model.vision_model." } else { "vision_model." };
    vision_format.add_names(&image, &mut renames, prefix, "vision_model.")?;
    text_format.add_names(&words, &mut renames, "text_model.", "text_model.")?;
    renames.add(LINEAR, "", "");
    let options = PairOptions {
        image_pooling: Some(Pooling::Pooler),
        text_pooling: Some(Pooling::Pooler),
        mlp: false,
        embed_dim: top.size("projection_dim", 512)?,
    };
    let model = options.model(vision, text, top.number("logit_scale_init_value", 2.6592)?);
    let mut leftovers = unused(vision_format.unused, prefix);
    leftovers.extend(unused(text_format.unused, "text_model."));
    let saved = saved("", "config.json", config, renames);
    let files = vec![UnloadedFile::new(folder, saved, weights, leftovers)];
    Ok(UnloadedModel {
        config: model,
        family: Family::DualEncoder,
        files,
        fresh_heads: None,
        fresh_bag_pooling: None,
        beside: Vec::new(),
    })
}
