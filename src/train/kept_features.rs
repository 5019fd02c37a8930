//! What is kept on disk of frozen layers and of teachers: where it lies, and what it depends on.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::config::Config;
use crate::digest::ContentHash;
use crate::model::Param;

/// The folder that the config names; else one beside `run`, so that the members of a sweep share it.
pub(super) fn folder(config: &Config, run: &Path) -> PathBuf {
    let beside = || run.parent().unwrap_or(Path::new(".")).join("feature-cache");
    config.data.feature_cache.clone().unwrap_or_else(beside)
}

/// A key over what vectors depend on: this version, `layers` and how they are worked out, and weights. Preprocessing,
/// and what images and texts hold, are for the caller to add.
pub(super) fn key<'a>(layers: &str, weights: impl Iterator<Item = &'a Param>) -> Result<ContentHash> {
    let mut key = ContentHash::default();
    key.field(env!("CARGO_PKG_VERSION"));
    key.field(layers);
    for param in weights {
        key.field(&param.spec.name);
        key.numbers(&param.var)?;
    }
    Ok(key)
}
