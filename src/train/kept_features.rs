//! What is kept on disk of frozen layers and of teachers: where it lies, and what it depends on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::DType;

use crate::config::Config;
use crate::data::{FeaturePrecision, READERS};
use crate::digest::ContentHash;
use crate::fs::check_writable;
use crate::model::Param;
use crate::model::freeze::FreezeDepth;

/// The folder that the config names; else one beside `run`, so that the members of a sweep share it.
pub(super) fn folder(config: &Config, run: &Path) -> PathBuf {
    let beside = || run.parent().unwrap_or(Path::new(".")).join("feature-cache");
    config.data.feature_cache.clone().unwrap_or_else(beside)
}

/// That the folder which the config names can be written to, where something is to be kept there.
///
/// # Errors
/// It is none, or nothing can be written there.
pub(super) fn check_folder(config: &Config) -> Result<()> {
    let freeze = &config.freeze;
    let frozen = freeze.image != FreezeDepth::None || freeze.text != FreezeDepth::None;
    let keeps = (frozen && config.data.cache_features) || config.loss.teacher.is_some();
    let Some(folder) = config.data.feature_cache.as_deref().filter(|_| keeps) else { return Ok(()) };
    check_writable(folder).context("data.feature_cache")
}

/// A key over what vectors depend on: this version, how files are read, `layers` and how they are worked out, and
/// weights. Preprocessing, and what images and texts hold, are for the caller to add.
pub(super) fn key<'a>(layers: &str, weights: impl Iterator<Item = &'a Param>) -> Result<ContentHash> {
    let mut key = ContentHash::default();
    key.field(env!("CARGO_PKG_VERSION"));
    key.field(READERS.to_le_bytes());
    key.field(layers);
    for param in weights {
        key.field(&param.spec.name);
        key.numbers(&param.var)?;
    }
    Ok(key)
}

/// `layers`, with the type that products are worked out in and what they are kept as.
pub(super) fn worked_out(mut layers: String, products: DType, precision: FeaturePrecision) -> String {
    if products == DType::BF16 {
        layers.push_str(" in bf16");
    }
    if precision == FeaturePrecision::Bf16 {
        layers.push_str(" kept in bf16");
    }
    layers
}
