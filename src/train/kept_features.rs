//! What is kept on disk of frozen layers and of teachers: where it lies, and what it depends on.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor};

use crate::config::Config;
use crate::data::{FeatureCache, FeaturePrecision};
use crate::digest::ContentHash;
use crate::dist::Collective;
use crate::model::Param;
use crate::model::freeze::FreezeDepth;

/// What the frozen text tower makes of texts, on the disk.
#[derive(Debug)]
pub struct KeptTexts(pub(super) FeatureCache);

impl KeptTexts {
    /// Those of some texts by their numbers, (texts, width).
    ///
    /// # Errors
    /// The file cannot be read, or has lost some.
    pub(super) fn of(&self, texts: impl ExactSizeIterator<Item = u32>, device: &Device) -> Result<Tensor> {
        let Self(cache) = self;
        let shape = (texts.len(), cache.width());
        let mut numbers = Vec::with_capacity(shape.0 * shape.1);
        for text in texts {
            let is_there = cache.read(text as usize, &mut numbers)?;
            let place = || cache.place();
            ensure!(is_there, "{}: the features of text {text} are not there; --resume latest makes them", place());
        }
        Ok(Tensor::from_vec(numbers, shape, device)?)
    }
}

/// Of the training reports: each distinct one once.
#[derive(Debug)]
pub struct KeptReports {
    pub(super) texts: KeptTexts,
    pub(super) of_rows: Vec<u32>,
}

impl KeptReports {
    /// Those of some training rows, (rows, width).
    ///
    /// # Errors
    /// As [`KeptTexts::of`].
    pub(super) fn of(&self, rows: &[usize], device: &Device) -> Result<Tensor> {
        self.texts.of(rows.iter().map(|&row| self.of_rows[row]), device)
    }
}

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
    let whole = std::path::absolute(folder)?;
    let Some(above) = whole.ancestors().find(|above| above.exists()) else { return Ok(()) };
    let hint = "name a folder that can be written to, or one that can be made";
    ensure!(above.is_dir(), "data.feature_cache: {}: {} is no folder; {hint}", folder.display(), above.display());
    let probe = above.join(format!(".reportclip-{}", std::process::id()));
    match File::create_new(&probe) {
        Ok(_) => Ok(fs::remove_file(&probe)?),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => {
            bail!(
                "data.feature_cache: {}: nothing can be written in {} ({e}); {hint}",
                folder.display(),
                above.display()
            )
        }
    }
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

/// A cache to be filled, by one rank a host, and what is missing on any host. The others open it when it is whole.
pub(super) fn to_fill(
    world: &dyn Collective,
    open: impl Fn() -> Result<FeatureCache>,
) -> Result<(Option<FeatureCache>, Vec<u32>)> {
    let writer = if world.local().0 == 0 { Some(open()?) } else { None };
    let missing: Vec<u32> = writer.iter().flat_map(FeatureCache::missing).map(|slot| slot as u32).collect();
    let (mut missing, _) = world.gather_numbers(&missing)?;
    missing.sort_unstable();
    missing.dedup();
    Ok((writer, missing))
}
