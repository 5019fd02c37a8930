//! What stands beside a model's weights in its folder: preprocessing, tokenizer, what of a report it reads.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::folder::{BAGS_FILE, LOCAL_FILE, REPORT_FILE};
use crate::data::{BagPolicy, Preprocess, ReportPolicy, ReportTokenizer, TokenizerKind, tokenize};
use crate::fs::read_up_to;
use crate::hub::{ModelFiles, Source};
use crate::json;
use crate::loss::LocalConfig;

/// What of a report a model reads: whole ones, unless its folder says otherwise.
///
/// # Errors
/// What it says cannot be read.
pub(super) fn report_policy(files: &ModelFiles) -> Result<ReportPolicy> {
    let Some(path) = files.find(REPORT_FILE)? else { return Ok(ReportPolicy::default()) };
    ReportPolicy::from_json(&json::read(&path)?).with_context(|| path.display().to_string())
}

/// Which images of a bag a model reads.
///
/// # Errors
/// What it says cannot be read.
pub(super) fn bag_policy(files: &ModelFiles) -> Result<BagPolicy> {
    let Some(path) = files.find(BAGS_FILE)? else { return Ok(BagPolicy::default()) };
    BagPolicy::from_json(&json::read_distinct(&path)?).with_context(|| path.display().to_string())
}

/// How sentences were held against a model's patches; `None` where they were not.
///
/// # Errors
/// What it says cannot be read.
pub(super) fn local_config(files: &ModelFiles) -> Result<Option<LocalConfig>> {
    let Some(path) = files.find(LOCAL_FILE)? else { return Ok(None) };
    let read = serde_json::from_value(json::read(&path)?);
    read.map(Some).with_context(|| path.display().to_string())
}

/// The tokenizer of the model `name`, a folder or hub id, without its weights; `context_length` wins over what its
/// config says.
///
/// # Errors
/// There is none, or it is broken.
pub fn open_tokenizer(name: &str, context_length: Option<usize>) -> Result<ReportTokenizer> {
    let files = ModelFiles::open(&Source::parse(name)?)?;
    let mut config = Value::Null;
    for name in ["config.json", "open_clip_config.json"] {
        if let Some(path) = files.find(name)?.filter(|_| config.is_null()) {
            config = json::read(&path)?;
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
    tokenizer_of(&files, kind)
}

/// The steps from pixels to input that a model's files say; `None` where they say nothing.
pub(super) fn preprocessing(files: &ModelFiles) -> Result<Option<Preprocess>> {
    let place = |path: &Path| path.display().to_string();
    if let Some(path) = files.find("preprocessor_config.json")? {
        let model_type = match files.find("config.json")? {
            Some(config) => json::read(&config)?["model_type"].as_str().map(str::to_string),
            None => None,
        };
        let read = Preprocess::from_json(&json::read(&path)?, model_type.as_deref());
        return Ok(Some(read.with_context(|| place(&path))?));
    }
    if let Some(path) = files.find("open_clip_config.json")? {
        return Ok(Some(Preprocess::from_open_clip(&json::read(&path)?).with_context(|| place(&path))?));
    }
    Ok(None)
}

/// The tokenizer in a model's files.
pub(super) fn tokenizer_of(files: &ModelFiles, kind: TokenizerKind) -> Result<ReportTokenizer> {
    let mut found = Vec::new();
    for name in tokenize::TOKENIZER_FILES {
        // With tokenizer.json, vocab.json and merges.txt say nothing new: two downloads less.
        let has_json = found.iter().any(|(n, _): &(String, Vec<u8>)| n == "tokenizer.json");
        if has_json && (name == "vocab.json" || name == "merges.txt" || name == "vocab.txt") {
            continue;
        }
        if let Some(path) = files.find(name)? {
            found.push((name.to_string(), read_up_to(&path, json::MAX_BYTES)?));
        }
    }
    ReportTokenizer::from_files(found, kind).with_context(|| files.source().to_string())
}
