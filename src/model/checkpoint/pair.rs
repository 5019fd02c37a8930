//! Two towers of transformers: in one VisionTextDualEncoder, in two repositories to be paired afresh, or in our own layout
//! for pairs that transformers has no class for.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::json::Section;
use super::layout::{Family, Part};
use super::load::{Draft, PartDraft};
use super::rename::{How, Renames, Rule};
use super::source::{Folder, TRANSFORMERS, WeightFiles};
use super::text::{TEXT_FORMATS, TextFormat};
use super::vision::{VISION_FORMATS, VisionFormat};
use super::{Pooling, Unused};
use crate::hub::ModelFiles;
use crate::model::config::{ClipConfig, LOGIT_SCALE_INIT, Projection, TextConfig, VisionConfig};

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
        match self.mlp {
            true => Projection::Mlp { hidden: (width + self.embed_dim) / 2, biases: (false, false) },
            false => Projection::Linear { bias: false },
        }
    }

    fn model(&self, vision: VisionConfig, text: TextConfig, logit_scale_init: f64) -> ClipConfig {
        ClipConfig {
            visual_projection: self.projection(vision.width()),
            text_projection: self.projection(text.width()),
            vision,
            text,
            embed_dim: self.embed_dim,
            logit_scale_init,
            logit_bias_init: None,
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
struct Tower<'a, F: 'static, C> {
    format: &'static F,
    config: C,
    json: Value,
    folder: Folder<'a>,
    weights: WeightFiles,
    prefix: &'static str,
    pooling: Pooling,
}

fn model_type(config: &Value) -> &str {
    config.get("model_type").and_then(Value::as_str).unwrap_or_default()
}

fn find_vision(config: &Value) -> Result<&'static VisionFormat> {
    let name = model_type(config);
    VISION_FORMATS.iter().find(|f| f.model_types.contains(&name)).with_context(|| {
        let known: Vec<&str> = VISION_FORMATS.iter().flat_map(|f| f.model_types.iter().copied()).collect();
        format!("model_type is {name:?}, which is no image tower known here; known are {}", known.join(", "))
    })
}

fn find_text(config: &Value) -> Result<&'static TextFormat> {
    let name = model_type(config);
    TEXT_FORMATS.iter().find(|f| f.model_types.contains(&name)).with_context(|| {
        let known: Vec<&str> = TEXT_FORMATS.iter().flat_map(|f| f.model_types.iter().copied()).collect();
        format!("model_type is {name:?}, which is no text tower known here; known are {}", known.join(", "))
    })
}

/// What to say of a config.json that is no dual encoder's.
pub(super) fn not_a_whole_model(config: &Value) -> anyhow::Error {
    let name = model_type(config);
    match (find_vision(config).is_ok(), find_text(config).is_ok()) {
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
    let whole =
        ["clip", "chinese_clip", "siglip", "siglip2", "vision-text-dual-encoder"].contains(&model_type(&config));
    Ok(!whole && (find_vision(&config).is_ok() || find_text(&config).is_ok()))
}

/// Fetches and opens what a pair needs of a tower's files; says how many numbers its weights hold.
///
/// # Errors
/// Anything that is missing or broken.
pub fn open_tower(files: &ModelFiles) -> Result<usize> {
    let folder = Folder::top(files);
    let config = folder.json("config.json")?.unwrap_or_default();
    let weights = match find_vision(&config).is_ok() {
        true => vision_tower(folder, None)?.weights,
        false => text_tower(folder, None)?.weights,
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
fn prefix_of(prefixes: &[&'static str], weights: &WeightFiles, names: &[String]) -> &'static str {
    let shapes = weights.shapes();
    let hits = |prefix: &str| names.iter().filter(|name| shapes.contains_key(&format!("{prefix}{name}"))).count();
    prefixes.iter().rev().copied().max_by_key(|prefix| hits(prefix)).unwrap_or("")
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

fn automatic(pooler: Option<&str>, prefix: &str, weights: &WeightFiles, otherwise: Pooling) -> Pooling {
    match pooler {
        Some(weight) if !weights.shapes().contains_key(&format!("{prefix}{weight}")) => Pooling::Cls,
        Some(_) => Pooling::Pooler,
        None => otherwise,
    }
}

fn vision_tower<'a>(folder: Folder<'a>, pooling: Option<Pooling>) -> Result<Tower<'a, VisionFormat, VisionConfig>> {
    let config = folder.json("config.json")?.with_context(|| format!("{folder}: has no config.json"))?;
    let place = || format!("{folder}: config.json");
    let format = find_vision(&config).with_context(place)?;
    let json = own(config, format.section);
    let weights = WeightFiles::open(folder, TRANSFORMERS)?;
    let mut renames = Renames::default();
    format.rules.iter().for_each(|rules| renames.add(rules, "", "vision_model."));
    let names: Vec<String> = SAMPLES.iter().filter_map(|ours| Some(renames.foreign(ours)?.0)).collect();
    let prefix = prefix_of(format.prefixes, &weights, &names);
    let pooling = pooling.unwrap_or_else(|| automatic(format.pooler, prefix, &weights, Pooling::Pooler));
    let config = (format.read)(&Section { name: "", json: &json }, pooling).with_context(place)?;
    Ok(Tower { format, config, json, folder, weights, prefix, pooling })
}

fn text_tower<'a>(folder: Folder<'a>, pooling: Option<Pooling>) -> Result<Tower<'a, TextFormat, TextConfig>> {
    let config = folder.json("config.json")?.with_context(|| format!("{folder}: has no config.json"))?;
    let place = || format!("{folder}: config.json");
    let format = find_text(&config).with_context(place)?;
    let json = own(config, format.section);
    let weights = WeightFiles::open(folder, TRANSFORMERS)?;
    let mut renames = Renames::default();
    renames.add(format.rules, "", "text_model.");
    let names: Vec<String> = SAMPLES.iter().filter_map(|ours| Some(renames.foreign(ours)?.0)).collect();
    let prefix = prefix_of(format.prefixes, &weights, &names);
    let otherwise = match format.model_types.first() {
        Some(&"clip") => Pooling::Eos,
        _ => Pooling::Cls,
    };
    let pooling = match (pooling, sentence_pooling(folder)?) {
        (Some(asked), _) => asked,
        (None, Some(said)) => said,
        (None, None) => automatic(format.pooler, prefix, &weights, otherwise),
    };
    let config = (format.read)(&Section { name: "", json: &json }, pooling).with_context(place)?;
    Ok(Tower { format, config, json, folder, weights, prefix, pooling })
}

/// Weights that tell a file's prefix: every tower has one of them.
const SAMPLES: &[&str] = &[
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.patch_embeddings.weight",
    "vision_model.embedder.embedder.convolution.weight",
    "vision_model.encoder.layers.0.layer_norm1.weight",
    "text_model.embeddings.token_embedding.weight",
    "text_model.encoder.layers.0.layer_norm1.weight",
];

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
pub(super) fn compose<'a>(image: Folder<'a>, text: Folder<'a>, options: &PairOptions) -> Result<Draft<'a>> {
    let image = vision_tower(image, options.image_pooling).context("model.image")?;
    let text = text_tower(text, options.text_pooling).context("model.text")?;
    let options = PairOptions { image_pooling: Some(image.pooling), text_pooling: Some(text.pooling), ..*options };
    let config = options.model(image.config.clone(), text.config.clone(), LOGIT_SCALE_INIT);
    // transformers' class takes what it calls pooler_output, through one matrix.
    let as_pooler = |image: &Tower<VisionFormat, VisionConfig>, text: &Tower<TextFormat, TextConfig>| {
        let of = |json| Section { name: "", json };
        let image_is = (image.format.read)(&of(&image.json), Pooling::Pooler).is_ok_and(|c| c == image.config);
        image_is && text.pooling == Pooling::Pooler && image.format.pairs && text.format.pairs && !options.mlp
    };
    let family = if as_pooler(&image, &text) { Family::DualEncoder } else { Family::Pair };
    let (mut parts, merged) = (Vec::new(), family == Family::DualEncoder);
    let mut renames = Renames::default();
    image.format.rules.iter().for_each(|rules| renames.add(rules, "", "vision_model."));
    let image_part = part("vision", "config.json", image.json.clone(), renames);
    let mut draft = PartDraft::with_weights(image.folder, image_part, image.weights, unused(image.format.unused, ""));
    parts.push(draft.behind(image.prefix, NOT_TEXT));
    let mut renames = Renames::default();
    renames.add(text.format.rules, "", "text_model.");
    let text_part = part("text", "config.json", text.json.clone(), renames);
    draft = PartDraft::with_weights(text.folder, text_part, text.weights, unused(text.format.unused, ""));
    parts.push(draft.behind(text.prefix, NOT_VISION));
    let beside = if merged {
        json!({
            "model_type": "vision-text-dual-encoder", "architectures": ["VisionTextDualEncoderModel"],
            "projection_dim": options.embed_dim, "logit_scale_init_value": LOGIT_SCALE_INIT,
            "vision_config": image.json, "text_config": text.json,
        })
    } else {
        options.to_json(LOGIT_SCALE_INIT)
    };
    Ok(Draft { config, family, parts, fresh_heads: Some(beside), beside: Vec::new() })
}

fn part(folder: &'static str, config_file: &'static str, config: Value, renames: Renames) -> Part {
    let weights_file = if config_file == CONFIG { "heads.safetensors" } else { "model.safetensors" };
    Part { folder, config_file, config, weights_file, renames, carried: Vec::new() }
}

/// Where a fresh pair is written: as one dual encoder of transformers, or in our layout.
pub(super) fn written(family: Family, config: Value, towers: Vec<Part>) -> Vec<Part> {
    let mut heads = Renames::default();
    heads.add(HEADS, "", "");
    heads.add(LINEAR, "", "");
    if family == Family::Pair {
        let heads = part("", CONFIG, config, heads);
        return towers.into_iter().chain([heads]).collect();
    }
    let mut all = part("", "config.json", config, heads);
    for tower in towers {
        let prefix = format!("{}_model.", tower.folder);
        all.renames.append(tower.renames, &prefix);
        all.carried.extend(tower.carried.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)));
    }
    vec![all]
}

/// Our own layout.
pub(super) fn read(folder: Folder, config: Value) -> Result<Draft> {
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
    let mut draft = compose(inner("vision"), inner("text"), &options)?;
    draft.config.logit_scale_init = top.number("logit_scale_init_value", LOGIT_SCALE_INIT)?;
    draft.family = Family::Pair;
    draft.fresh_heads = None;
    let mut heads = Renames::default();
    heads.add(HEADS, "", "");
    heads.add(LINEAR, "", "");
    draft.parts.push(PartDraft::open(folder, part("", CONFIG, config, heads), Vec::new())?);
    Ok(draft)
}

/// A VisionTextDualEncoder.
pub(super) fn read_dual_encoder(folder: Folder, config: Value) -> Result<Draft> {
    let top = Section { name: "", json: &config };
    let (image, words) = (Section::of(&config, "vision_config"), Section::of(&config, "text_config"));
    let vision_format = find_vision(image.json).context("vision_config")?;
    let text_format = find_text(words.json).context("text_config")?;
    ensure!(vision_format.pairs, "vision_config: {:?} has no pooler_output of rank 2", model_type(image.json));
    ensure!(text_format.pairs, "text_config: {:?} has no pooler_output", model_type(words.json));
    let vision = (vision_format.read)(&image, Pooling::Pooler)?;
    let text = (text_format.read)(&words, Pooling::Pooler)?;
    let weights = WeightFiles::open(folder, TRANSFORMERS)?;
    let mut renames = Renames::default();
    // transformers 4 nests CLIP's tower once more than 5.
    let nested = weights.shapes().keys().any(|name| name.starts_with("vision_model.vision_model."));
    let prefix = if nested { "vision_model.vision_model." } else { "vision_model." };
    vision_format.rules.iter().for_each(|rules| renames.add(rules, prefix, "vision_model."));
    renames.add(text_format.rules, "text_model.", "text_model.");
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
    let part = part("", "config.json", config, renames);
    let draft = PartDraft::with_weights(folder, part, weights, leftovers);
    Ok(Draft { config: model, family: Family::DualEncoder, parts: vec![draft], fresh_heads: None, beside: Vec::new() })
}
