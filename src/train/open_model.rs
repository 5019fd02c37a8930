//! The model of a run: read from files, or fresh with a tokenizer trained on the reports.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use serde_json::{Value, json};

use crate::config::{Config, ModelInit, ProjectionKind};
use crate::data::LongReports;
use crate::data::{Preprocess, ReportPolicy, ReportTokenizer, Row, TokenizerKind, bpe, tokenize};
use crate::export::{ModelFolder, REPORT_FILE};
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::{self, Family, Layout, LoadOptions, PairOptions, Pooling};
use crate::model::{
    ClipConfig, ClipTextConfig, EosRule, LOGIT_SCALE_INIT, Params, Projection, TextConfig, VisionConfig, VitConfig,
};

/// A model ready for training, and what to tell of it.
pub(super) struct Model {
    pub params: Params,
    pub folder: ModelFolder,
    pub notes: Vec<String>,
}

/// Opens or makes the model that `config` names, and checks that its parts fit; `reports` are the training pairs.
pub(super) fn open_model(config: &Config, reports: &[Row], device: &Device) -> Result<Model> {
    let model = match config.model.init {
        ModelInit::Pretrained => pretrained(config, device)?,
        ModelInit::Random => random(config, reports, device)?,
    };
    let c = &model.folder.config;
    let vocab = model.folder.tokenizer.vocab_size();
    anyhow::ensure!(
        vocab <= c.text.vocab_size(),
        "the tokenizer has {vocab} tokens, the model's vocabulary {}; do they belong together?",
        c.text.vocab_size()
    );
    Ok(model)
}

fn pretrained(config: &Config, device: &Device) -> Result<Model> {
    let m = &config.model;
    let open = |key: &str, name: &Option<String>| -> Result<ModelFiles> {
        let source = Source::parse(name.as_deref().unwrap_or_default()).context(key.to_string())?;
        Ok(ModelFiles::open(&source)?)
    };
    let options = LoadOptions {
        image_size: m.image_size,
        native_size: None,
        context_length: m.context_length,
        seed: config.seed,
    };
    let tokenizer = m.tokenizer.as_deref();
    let (files, (loaded, folder)) = match &m.path {
        Some(_) => {
            let files = open("model.path", &m.path)?;
            let opened = open_pretrained(&files, &options, tokenizer, device)?;
            (vec![files], opened)
        }
        None => {
            let (image, text) = (open("model.image", &m.image)?, open("model.text", &m.text)?);
            let pooling = |word: &Option<String>| word.as_deref().and_then(Pooling::from_word);
            let pairing = PairOptions {
                image_pooling: pooling(&m.image_pooling),
                text_pooling: pooling(&m.text_pooling),
                mlp: m.projection == ProjectionKind::Mlp,
                embed_dim: m.embed_dim,
            };
            let opened = open_pair(&image, &text, &pairing, &options, tokenizer, device)?;
            (vec![image, text], opened)
        }
    };
    let c = &loaded.config;
    let mut notes = vec![format!("model: {}, {} and {}", loaded.layout.family.name(), c.vision.name(), c.text.name())];
    notes.extend(
        files.iter().filter_map(|f| f.commit().map(|commit| format!("model: {}, commit {commit}", f.source()))),
    );
    notes.extend(loaded.ignored.iter().map(|i| format!("ignored tensor {}: {}", i.name, i.reason)));
    if !loaded.fresh.is_empty() {
        notes.push(format!("fresh weights, from seed {}: {}", config.seed, loaded.fresh.join(", ")));
    }
    Ok(Model { params: loaded.params, folder, notes })
}

/// A pretrained model with its preprocessing and tokenizer. `tokenizer`: a folder to take that from instead.
///
/// # Errors
/// Anything that is missing or broken.
pub fn open_pretrained(
    files: &ModelFiles,
    options: &LoadOptions,
    tokenizer: Option<&Path>,
    device: &Device,
) -> Result<(checkpoint::Loaded, ModelFolder)> {
    let mut preprocess = preprocessing(files)?;
    let native_size = preprocess.as_ref().and_then(Preprocess::output_size).map(|(height, _)| height as usize);
    let loaded = checkpoint::load(files, &LoadOptions { native_size, ..*options }, device)?;
    if loaded.layout.family == Family::Siglip2 {
        // Its own processor cuts an image of any shape into patches; here it is a square of the size it was learnt at.
        preprocess = None;
    }
    let origin = match files.source() {
        Source::Hub { repo, revision } => format!("Fine-tuned with reportclip from {repo} ({revision})."),
        // A local path may carry a name or a project that nobody meant to publish.
        Source::Folder(_) => "Fine-tuned with reportclip from a local model.".into(),
    };
    let folder = model_folder(&loaded, preprocess, files, tokenizer, origin)?;
    Ok((loaded, folder))
}

/// Fetches all that a pair needs of one tower: weights, and its preprocessing or its tokenizer's files. Says how many
/// numbers its weights hold.
///
/// # Errors
/// Anything that is missing or broken.
pub fn fetch_tower(files: &ModelFiles) -> Result<usize> {
    let weights = checkpoint::open_tower(files)?;
    preprocessing(files)?;
    for name in tokenize::TOKENIZER_FILES {
        files.find(name)?;
    }
    Ok(weights)
}

/// Two pretrained towers under fresh projections, with the preprocessing of one and the tokenizer of the other.
fn open_pair(
    image: &ModelFiles,
    text: &ModelFiles,
    pairing: &PairOptions,
    options: &LoadOptions,
    tokenizer: Option<&Path>,
    device: &Device,
) -> Result<(checkpoint::Loaded, ModelFolder)> {
    let preprocess = preprocessing(image)?;
    let native_size = preprocess.as_ref().and_then(Preprocess::output_size).map(|(height, _)| height as usize);
    let options = LoadOptions { native_size, ..*options };
    let loaded = checkpoint::load_pair(image, text, pairing, &options, device)?;
    let name = |files: &ModelFiles| match files.source() {
        Source::Hub { repo, revision } => format!("{repo} ({revision})"),
        Source::Folder(_) => "a local tower".into(),
    };
    let origin = format!("Paired and fine-tuned with reportclip from {} and {}.", name(image), name(text));
    let folder = model_folder(&loaded, preprocess, text, tokenizer, origin)?;
    Ok((loaded, folder))
}

fn model_folder(
    loaded: &checkpoint::Loaded,
    preprocess: Option<Preprocess>,
    text: &ModelFiles,
    tokenizer: Option<&Path>,
    origin: String,
) -> Result<ModelFolder> {
    let config = &loaded.config;
    let size = config.vision.image_size();
    let mut preprocess = preprocess.unwrap_or_else(|| Preprocess::of_model(image_model_type(loaded), size));
    if preprocess.output_size() != Some((size as u32, size as u32)) {
        preprocess = preprocess.with_image_size(size);
    }
    let kind = TokenizerKind {
        model_type: loaded.layout.text_model_type().to_string(),
        context_length: config.text.context_length(),
        full_length: config.text.attends_padding(),
    };
    let tokenizer = match tokenizer {
        Some(folder) => ReportTokenizer::from_folder(folder, kind).context("model.tokenizer")?,
        None => hub_tokenizer(text, kind)?,
    };
    let report = report_policy(text)?;
    let tokenizer = tokenizer.with_whole_sentences(report.long != LongReports::Truncate);
    Ok(ModelFolder {
        config: config.clone(),
        layout: loaded.layout.clone(),
        preprocess,
        tokenizer,
        report,
        origin,
        summary: String::new(),
    })
}

/// What of a report a model reads: whole ones, unless its folder says otherwise.
///
/// # Errors
/// What it says cannot be read.
pub fn report_policy(files: &ModelFiles) -> Result<ReportPolicy> {
    let Some(path) = files.find(REPORT_FILE)? else { return Ok(ReportPolicy::default()) };
    let read = || -> Result<ReportPolicy> { ReportPolicy::from_json(&serde_json::from_slice(&std::fs::read(&path)?)?) };
    read().with_context(|| path.display().to_string())
}

/// A model's tokenizer without its weights; `context_length` wins over what its config says.
///
/// # Errors
/// There is none, or it is broken.
pub fn open_tokenizer(files: &ModelFiles, context_length: Option<usize>) -> Result<ReportTokenizer> {
    let mut config = Value::Null;
    for name in ["config.json", "open_clip_config.json"] {
        if let Some(path) = files.find(name)?.filter(|_| config.is_null()) {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            config = serde_json::from_slice(&bytes).with_context(|| format!("{}: not JSON", path.display()))?;
        }
    }
    let text = if config["text_config"].is_object() { &config["text_config"] } else { &config };
    let model_type = text["model_type"].as_str().or(config["model_type"].as_str()).unwrap_or("clip");
    // RoBERTa's table of positions begins with two that no token has.
    let unused = if model_type.contains("roberta") { 2 } else { 0 };
    let positions =
        text["max_position_embeddings"].as_u64().or(config["model_cfg"]["text_cfg"]["context_length"].as_u64());
    let said = positions.map_or(77, |n| n.saturating_sub(unused) as usize);
    let model_type = model_type.replace("_text_model", "");
    let kind = TokenizerKind { model_type, context_length: context_length.unwrap_or(said), full_length: false };
    hub_tokenizer(files, kind)
}

/// Whose preprocessing a model has that comes without any.
fn image_model_type(loaded: &checkpoint::Loaded) -> &'static str {
    match (&loaded.config.vision, loaded.layout.family) {
        (_, Family::Siglip2) => "siglip2",
        (_, Family::Clip | Family::ChineseClip | Family::OpenClip) => "clip",
        (_, Family::Siglip) => "siglip",
        (VisionConfig::ResNet(_) | VisionConfig::ConvNext(_), _) => "convnext",
        _ => "vit",
    }
}

/// The steps from pixels to input that a model's files say; `None` where they say nothing.
fn preprocessing(files: &ModelFiles) -> Result<Option<Preprocess>> {
    let json = |path: &Path| -> Result<Value> {
        let text = std::fs::read(path).with_context(|| path.display().to_string())?;
        serde_json::from_slice(&text).with_context(|| format!("{}: not JSON", path.display()))
    };
    let place = |path: &Path| path.display().to_string();
    if let Some(path) = files.find("preprocessor_config.json")? {
        let model_type = match files.find("config.json")? {
            Some(config) => json(&config)?["model_type"].as_str().map(str::to_string),
            None => None,
        };
        let read = Preprocess::from_json(&json(&path)?, model_type.as_deref());
        return Ok(Some(read.with_context(|| place(&path))?));
    }
    if let Some(path) = files.find("open_clip_config.json")? {
        return Ok(Some(Preprocess::from_open_clip(&json(&path)?).with_context(|| place(&path))?));
    }
    Ok(None)
}

fn hub_tokenizer(files: &ModelFiles, kind: TokenizerKind) -> Result<ReportTokenizer> {
    let mut found = Vec::new();
    for name in tokenize::TOKENIZER_FILES {
        // With tokenizer.json, vocab.json and merges.txt say nothing new: two downloads less.
        let has_json = found.iter().any(|(n, _): &(String, Vec<u8>)| n == "tokenizer.json");
        if has_json && (name == "vocab.json" || name == "merges.txt" || name == "vocab.txt") {
            continue;
        }
        if let Some(path) = files.find(name)? {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            found.push((name.to_string(), bytes));
        }
    }
    ReportTokenizer::from_files(found, kind).with_context(|| files.source().to_string())
}

fn random(config: &Config, reports: &[Row], device: &Device) -> Result<Model> {
    let (m, r) = (&config.model, &config.model.random);
    let image_size = m.image_size.unwrap_or(224);
    let context_length = m.context_length.unwrap_or(77);
    let kind = TokenizerKind::clip(context_length);
    let tokenizer = match &m.tokenizer {
        Some(folder) => ReportTokenizer::from_folder(folder, kind)?,
        None => {
            let files = bpe::train(reports.iter().map(|r| r.report()), r.vocab_size)?;
            ReportTokenizer::from_files(files, kind)?
        }
    };
    let end = tokenizer.end_id().context("model.tokenizer: has no <|endoftext|> token")?;
    let vocab_size = tokenizer.vocab_size();
    let vision = VitConfig::clip(r.vision_width, r.vision_layers, image_size, r.patch_size);
    let text = ClipTextConfig::clip(r.text_width, r.text_layers, vocab_size, context_length, EosRule::FirstEqual(end));
    let clip = ClipConfig {
        vision: VisionConfig::Vit(VitConfig { heads: r.vision_heads, ..vision }),
        text: TextConfig::Clip(ClipTextConfig { heads: r.text_heads, ..text }),
        visual_projection: Projection::Linear { bias: false },
        text_projection: Projection::Linear { bias: false },
        embed_dim: r.embed_dim,
        logit_scale_init: LOGIT_SCALE_INIT,
        logit_bias_init: None,
    };
    let params = checkpoint::random(&clip, config.seed, device)?;
    let note = format!(
        "tokenizer: {} tokens, {}",
        tokenizer.vocab_size(),
        match &m.tokenizer {
            Some(_) => "read from model.tokenizer",
            None => "trained on the training reports, because model.tokenizer is not set",
        }
    );
    let folder = ModelFolder {
        // Without these transformers warns of ids of OpenAI's vocabulary.
        layout: Layout::fresh_clip(
            &clip,
            json!({"bos_token_id": tokenizer.start_id(), "pad_token_id": tokenizer.pad_id()}),
        )?,
        config: clip,
        preprocess: Preprocess::clip(image_size),
        tokenizer,
        report: ReportPolicy::default(),
        origin: "Trained from scratch with reportclip.".into(),
        summary: String::new(),
    };
    Ok(Model { params, folder, notes: vec![note] })
}
