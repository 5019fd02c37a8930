//! The model of a run: read from files, or fresh with a tokenizer trained on the reports.

use anyhow::{Context, Result};
use candle_core::Device;
use serde_json::{Value, json};

use crate::config::{Config, ModelInit};
use crate::data::{Preprocess, ReportTokenizer, Row, bpe, tokenize};
use crate::export::ModelFolder;
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::{self, LoadOptions};
use crate::model::{Activation, ClipConfig, EosRule, Params, TextConfig, VisionConfig};

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
    let size = c.vision.image_size as u32;
    let seen = model.folder.preprocess.output_size();
    anyhow::ensure!(
        seen == Some((size, size)),
        "preprocessor_config.json gives images of {}, the model takes {size}×{size}",
        seen.map_or("varying size".into(), |(h, w)| format!("{h}×{w}"))
    );
    let vocab = model.folder.tokenizer.vocab_size();
    anyhow::ensure!(
        vocab <= c.text.vocab_size,
        "the tokenizer has {vocab} tokens, the model's vocabulary {}; do they belong together?",
        c.text.vocab_size
    );
    Ok(model)
}

fn pretrained(config: &Config, device: &Device) -> Result<Model> {
    let name = config.model.path.as_deref().unwrap_or_default();
    let source = Source::parse(name).context("model.path")?;
    let files = ModelFiles::open(&source)?;
    let options = LoadOptions { image_size: config.model.image_size, context_length: config.model.context_length };
    let (loaded, folder) = open_pretrained(&files, &options, device)?;
    let mut notes: Vec<String> =
        loaded.ignored.iter().map(|(name, why)| format!("ignored tensor {name}: {why}")).collect();
    if let Some(commit) = files.commit() {
        notes.push(format!("model: {source}, commit {commit}"));
    }
    Ok(Model { params: loaded.params, folder, notes })
}

/// A pretrained model with its preprocessing and tokenizer.
///
/// # Errors
/// Anything that is missing or broken.
pub fn open_pretrained(
    files: &ModelFiles,
    options: &LoadOptions,
    device: &Device,
) -> Result<(checkpoint::Loaded, ModelFolder)> {
    let loaded = checkpoint::load(files, options, device)?;
    let mut preprocess = match files.find("preprocessor_config.json")? {
        Some(path) => {
            let text = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let json: Value = serde_json::from_slice(&text).with_context(|| format!("{}: not JSON", path.display()))?;
            Preprocess::from_json(&json).with_context(|| path.display().to_string())?
        }
        None => Preprocess::clip(loaded.config.vision.image_size),
    };
    if let Some(size) = options.image_size {
        preprocess = preprocess.with_image_size(size);
    }
    let tokenizer = hub_tokenizer(files, loaded.config.text.context_length)?;
    let folder = ModelFolder {
        config: loaded.config.clone(),
        config_json: loaded.config_json.clone(),
        preprocess,
        tokenizer,
        origin: match files.source() {
            Source::Hub { repo, revision } => format!("Fine-tuned with reportclip from {repo} ({revision})."),
            // A local path may carry a name or a project that nobody meant to publish.
            Source::Folder(_) => "Fine-tuned with reportclip from a local CLIP.".into(),
        },
    };
    Ok((loaded, folder))
}

fn hub_tokenizer(files: &ModelFiles, context_length: usize) -> Result<ReportTokenizer> {
    let mut found = Vec::new();
    for name in tokenize::TOKENIZER_FILES {
        // With tokenizer.json, vocab.json and merges.txt say nothing new: two downloads less.
        let has_json = found.iter().any(|(n, _): &(String, Vec<u8>)| n == "tokenizer.json");
        if has_json && (name == "vocab.json" || name == "merges.txt") {
            continue;
        }
        if let Some(path) = files.find(name)? {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            found.push((name.to_string(), bytes));
        }
    }
    ReportTokenizer::from_files(found, context_length).with_context(|| files.source().to_string())
}

fn random(config: &Config, reports: &[Row], device: &Device) -> Result<Model> {
    let (m, r) = (&config.model, &config.model.random);
    let image_size = m.image_size.unwrap_or(224);
    let context_length = m.context_length.unwrap_or(77);
    let tokenizer = match &m.tokenizer {
        Some(folder) => ReportTokenizer::from_folder(folder, context_length)?,
        None => {
            let files = bpe::train(reports.iter().map(|r| r.report.as_str()), r.vocab_size)?;
            ReportTokenizer::from_files(files, context_length)?
        }
    };
    let end = tokenizer.end_id().context("model.tokenizer: has no <|endoftext|> token")?;
    let clip = ClipConfig {
        vision: VisionConfig {
            width: r.vision_width,
            intermediate: 4 * r.vision_width,
            layers: r.vision_layers,
            heads: r.vision_heads,
            image_size,
            patch_size: r.patch_size,
            channels: 3,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
        },
        text: TextConfig {
            width: r.text_width,
            intermediate: 4 * r.text_width,
            layers: r.text_layers,
            heads: r.text_heads,
            vocab_size: tokenizer.vocab_size(),
            context_length,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            eos: EosRule::FirstEqual(end),
        },
        embed_dim: r.embed_dim,
        logit_scale_init: (1.0f64 / 0.07).ln(),
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
        config: clip,
        // Without these transformers warns of ids of OpenAI's vocabulary.
        config_json: json!({"text_config": {
            "bos_token_id": tokenizer.start_id(), "pad_token_id": tokenizer.pad_id(),
        }}),
        preprocess: Preprocess::clip(image_size),
        tokenizer,
        origin: "Trained from scratch with reportclip.".into(),
    };
    Ok(Model { params, folder, notes: vec![note] })
}
