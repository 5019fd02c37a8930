//! What a model is made of, whether it can be used, and what training it takes.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::Device;
use serde_json::Value;

use super::open::fetch_tower;
use super::opened::Session;
use crate::error::one_line;
use crate::hub::{ModelFiles, Source};
use crate::model::Part;
use crate::model::checkpoint::{self, Inspection, LoadOptions, Verification};

/// What is known of a model.
pub struct Inspected {
    /// Folder, or repository with its revision.
    pub source: String,
    /// What its files hold, and which of it is used.
    pub files: Inspection,
    /// Weights of "image tower", "text tower" and "heads".
    pub weights: BTreeMap<&'static str, usize>,
    /// MiB that training all of it takes, an estimate: weights, gradients and AdamW's two moments in f32, activations.
    pub memory_mib: usize,
    /// The same with products in bf16 on a CPU that has them, where what only products read is kept in bf16.
    pub memory_bf16_mib: usize,
    /// Its image processor's config, where it can be opened.
    pub preprocessing: Option<Value>,
    /// Its tokenizer, where it can be opened.
    pub tokenizer: Option<TokenizerSummary>,
    /// Why it would be refused; empty where it can be used.
    pub refused: Vec<String>,
}

/// A tokenizer in short.
pub struct TokenizerSummary {
    /// transformers' class.
    pub class: String,
    /// Tokens.
    pub vocab_size: usize,
}

/// Looks into the model `name`, a folder or hub id; memory is for `batch_size` pairs a chunk.
///
/// # Errors
/// No config that says what it is, weights that cannot be read.
pub fn inspect(name: &str, batch_size: usize) -> Result<Inspected> {
    let files = ModelFiles::open(&Source::parse(name)?)?;
    let found = checkpoint::inspect(&files)?;
    let weights = weights(&found);
    let all = weights.values().fold(0usize, |all, &part| all.saturating_add(part));
    let memory = |narrow: bool| {
        let activations = batch_size.saturating_mul(found.config.activation_bytes(narrow));
        all.saturating_mul(16).saturating_add(activations) >> 20
    };
    let (memory_mib, memory_bf16_mib) = (memory(false), memory(true));
    let mut refused = found.problems.clone();
    let mut folder = None;
    if refused.is_empty() {
        match Session::pretrained(&files, &LoadOptions::default(), None, &Device::Cpu) {
            Ok(session) => folder = Some(session.folder),
            Err(error) => refused.push(one_line(&error)),
        }
    }
    let tokenizer = folder.as_ref().map(|folder| TokenizerSummary {
        class: folder.tokenizer.class().to_string(),
        vocab_size: folder.tokenizer.vocab_size(),
    });
    Ok(Inspected {
        source: files.source().to_string(),
        weights,
        memory_mib,
        memory_bf16_mib,
        preprocessing: folder.map(|folder| folder.preprocess.to_json()),
        tokenizer,
        refused,
        files: found,
    })
}

fn weights(found: &Inspection) -> BTreeMap<&'static str, usize> {
    let mut weights = BTreeMap::from([("image tower", 0), ("text tower", 0), ("heads", 0)]);
    for spec in &found.specs {
        let part = match spec.part {
            Part::Image => "image tower",
            Part::Text => "text tower",
            Part::Heads => "heads",
        };
        *weights.entry(part).or_default() += spec.shape.elem_count();
    }
    weights
}

/// Compares the files of `name`, a folder or a hub id in the cache, with their SHA-256.
///
/// # Errors
/// There is no such folder, or it cannot be read.
pub fn verify(name: &str) -> Result<Verification> {
    let files = ModelFiles::open(&Source::parse(name)?)?;
    let folder = files.folder().with_context(|| format!("{name}: not in the cache; fetch it with `model download`"))?;
    checkpoint::verify_checksums(&folder)
}

/// A model or tower in the cache.
pub struct Fetched {
    /// Repository with its revision, or folder.
    pub source: String,
    /// Numbers that its weights hold.
    pub weights: usize,
    /// The commit, of a repository.
    pub commit: Option<String>,
}

/// Fetches all that training needs of the model or tower `name`, and opens it, which shows now rather than later that
/// it is usable.
///
/// # Errors
/// Anything that is missing or broken.
pub fn fetch(name: &str) -> Result<Fetched> {
    let files = ModelFiles::open(&Source::parse(name)?)?;
    let weights = if checkpoint::is_tower(&files)? {
        fetch_tower(&files)?
    } else {
        Session::pretrained(&files, &LoadOptions::default(), None, &Device::Cpu)?.params.count().0
    };
    Ok(Fetched { source: files.source().to_string(), weights, commit: files.commit() })
}
