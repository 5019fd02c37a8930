//! Opening: a folder or a repository of the hub, two towers to be paired, or what a run's config names.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device};

use super::folder::ModelFolder;
use super::fresh::fresh;
use super::opened::Session;
use super::processor::{bag_policy, local_config, preprocessing, report_policy, tokenizer_of};
use crate::config::{Config, ModelInit, ProjectionKind};
use crate::data::LongReports;
use crate::data::{BagPolicy, Preprocess, ReportPolicy, ReportTokenizer, Row, TokenizerKind, tokenize};
use crate::hub::{HubSettings, ModelFiles, Source};
use crate::model::checkpoint::{self, Family, LoadOptions, PairOptions, Pooling};

impl Session {
    /// Opens a folder or hub id for inference, on `device`: "auto", "cpu", "cuda" or "cuda:N".
    ///
    /// # Errors
    /// Anything that is missing or broken in it, a device that is not there.
    pub fn open(name: &str, device: &str) -> Result<Self> {
        Self::open_on(name, device, (0, 1))
    }

    /// [`Self::open`] without a request to the hub: for a name that nobody typed, such as what a file says.
    ///
    /// # Errors
    /// As there; a model that is not in the cache.
    pub fn open_cached(name: &str, device: &str) -> Result<Self> {
        let (device, reason) = crate::device::choose(device, (0, 1))?;
        tracing::debug!("device: {reason}");
        let offline = HubSettings { offline: true, ..HubSettings::from_env() };
        Self::pretrained(
            &ModelFiles::open_with(&Source::parse(name)?, &offline)?,
            &LoadOptions::default(),
            None,
            &device,
        )
    }

    /// [`Self::open`] on one of several ranks: `local` is its number among those of its host, and how many those are.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(name: &str, device: &str, local: (usize, usize)) -> Result<Self> {
        let (device, reason) = crate::device::choose(device, local)?;
        tracing::debug!("device: {reason}");
        Self::pretrained(&ModelFiles::open(&Source::parse(name)?)?, &LoadOptions::default(), None, &device)
    }

    /// A pretrained model with its preprocessing and tokenizer. `tokenizer`: a folder to take that from instead.
    ///
    /// # Errors
    /// Anything that is missing or broken.
    pub fn pretrained(
        files: &ModelFiles,
        options: &LoadOptions,
        tokenizer: Option<&Path>,
        device: &Device,
    ) -> Result<Self> {
        let (loaded, folder) = read_model(files, options, tokenizer, device)?;
        let notes = notes(&loaded, &[files], options.seed);
        Ok(Self { params: loaded.params, folder, device: device.clone(), products: DType::F32, notes })
    }
}

/// What of a report the model `name` reads, a folder or hub id; its weights are not touched.
///
/// # Errors
/// There is no such model, or what it says of reports cannot be read.
pub fn policy_of(name: &str) -> Result<ReportPolicy> {
    report_policy(&ModelFiles::open(&Source::parse(name)?)?)
}

/// Which images of a bag the model `name` reads, a folder or hub id; its weights are not touched.
///
/// # Errors
/// There is no such model, or what it says of bags cannot be read.
pub fn bag_policy_of(name: &str) -> Result<BagPolicy> {
    bag_policy(&ModelFiles::open(&Source::parse(name)?)?)
}

/// Opens or makes the model that `config` names, and checks that its parts fit; `reports` are the training pairs.
///
/// # Errors
/// Anything that is missing, broken or does not fit.
pub fn open_model(config: &Config, reports: &[Row], device: &Device) -> Result<Session> {
    let model = match config.model.init {
        ModelInit::Pretrained => pretrained(config, device)?,
        ModelInit::Random => fresh(config, reports, device)?,
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

fn pretrained(config: &Config, device: &Device) -> Result<Session> {
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
        bag_pooling: m.bag_pooling_request(),
    };
    let tokenizer = m.tokenizer.as_deref();
    if m.path.is_some() {
        return Session::pretrained(&open("model.path", &m.path)?, &options, tokenizer, device);
    }
    let (image, text) = (open("model.image", &m.image)?, open("model.text", &m.text)?);
    let pooling = |word: &Option<String>| word.as_deref().and_then(Pooling::from_word);
    let pairing = PairOptions {
        image_pooling: pooling(&m.image_pooling),
        text_pooling: pooling(&m.text_pooling),
        mlp: m.projection == ProjectionKind::Mlp,
        embed_dim: m.embed_dim,
    };
    let preprocess = preprocessing(&image)?;
    let options = LoadOptions { native_size: native_size(preprocess.as_ref()), ..options };
    let loaded = checkpoint::load_pair(&image, &text, &pairing, &options, device)?;
    let name = |files: &ModelFiles| match files.source() {
        Source::Hub { repo, revision } => format!("{repo} ({revision})"),
        Source::Folder(_) => "a local tower".into(),
    };
    let origin = format!("Paired and fine-tuned with reportclip from {} and {}.", name(&image), name(&text));
    let folder = model_folder(&loaded, preprocess, (&text, BagPolicy::default()), tokenizer, origin)?;
    let notes = notes(&loaded, &[&image, &text], config.seed);
    Ok(Session { params: loaded.params, folder, device: device.clone(), products: DType::F32, notes })
}

/// What was read, from which commits, and what of it was left out or made afresh.
fn notes(loaded: &checkpoint::Loaded, files: &[&ModelFiles], seed: u64) -> Vec<String> {
    let c = &loaded.config;
    let mut notes = vec![format!("model: {}, {} and {}", loaded.layout.family.name(), c.vision.name(), c.text.name())];
    notes.extend(
        files.iter().filter_map(|f| f.commit().map(|commit| format!("model: {}, commit {commit}", f.source()))),
    );
    notes.extend(loaded.ignored.iter().map(|i| format!("ignored tensor {}: {}", i.name, i.reason)));
    if !loaded.fresh.is_empty() {
        notes.push(format!("fresh weights, from seed {seed}: {}", loaded.fresh.join(", ")));
    }
    notes
}

/// The image size that a model's preprocessing gives.
fn native_size(preprocess: Option<&Preprocess>) -> Option<usize> {
    preprocess.and_then(Preprocess::output_size).map(|(height, _)| height as usize)
}

fn read_model(
    files: &ModelFiles,
    options: &LoadOptions,
    tokenizer: Option<&Path>,
    device: &Device,
) -> Result<(checkpoint::Loaded, ModelFolder)> {
    let mut preprocess = preprocessing(files)?;
    let options = LoadOptions { native_size: native_size(preprocess.as_ref()), ..*options };
    let loaded = checkpoint::load(files, &options, device)?;
    if loaded.layout.family == Family::Siglip2 {
        // Its own processor cuts an image of any shape into patches; here it is a square of the size it was learnt at.
        preprocess = None;
    }
    let origin = match files.source() {
        Source::Hub { repo, revision } => format!("Fine-tuned with reportclip from {repo} ({revision})."),
        // A local path may carry a name or a project that nobody meant to publish.
        Source::Folder(_) => "Fine-tuned with reportclip from a local model.".into(),
    };
    let folder = model_folder(&loaded, preprocess, (files, bag_policy(files)?), tokenizer, origin)?;
    Ok((loaded, folder))
}

/// Fetches all that a pair needs of one tower: weights, and its preprocessing or its tokenizer's files. Says how many
/// numbers its weights hold.
///
/// # Errors
/// Anything that is missing or broken.
pub(super) fn fetch_tower(files: &ModelFiles) -> Result<usize> {
    let weights = checkpoint::open_tower(files)?;
    preprocessing(files)?;
    for name in tokenize::TOKENIZER_FILES {
        files.find(name)?;
    }
    Ok(weights)
}

fn model_folder(
    loaded: &checkpoint::Loaded,
    preprocess: Option<Preprocess>,
    (text, bags): (&ModelFiles, BagPolicy),
    tokenizer: Option<&Path>,
    origin: String,
) -> Result<ModelFolder> {
    let config = &loaded.config;
    let size = config.vision.image_size();
    let mut preprocess = preprocess.unwrap_or_else(|| Preprocess::of_model(loaded.preprocessing(), size));
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
        None => tokenizer_of(text, kind)?,
    };
    let report = report_policy(text)?;
    let tokenizer = tokenizer.with_whole_sentences(report.long != LongReports::Truncate);
    Ok(ModelFolder {
        config: config.clone(),
        layout: loaded.layout.clone(),
        preprocess,
        tokenizer,
        report,
        bags,
        local: local_config(text)?,
        origin,
        summary: String::new(),
    })
}
