//! What is meant: every section typed, every default filled. A key is read here by its field: the names are the same.

use std::path::PathBuf;

use serde::Deserialize;

use super::loss::LossConfig;
use super::sections::{EvalConfig, ModelConfig, TrainConfig};
use crate::data::{AugmentConfig, DataConfig, ReportConfig};
use crate::model::freeze::FreezeConfig;
use crate::model::lora::LoraConfig;
use crate::optim::OptimConfig;
use crate::track::TrackConfig;

/// A whole run, resolved.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // Fields are documented by the table of keys.
pub struct Config {
    pub seed: u64,
    pub device: String,
    /// Where nobody chose one: `runs/<config name>`.
    #[serde(default)]
    pub output: PathBuf,
    /// Nobody chose `output`.
    #[serde(skip)]
    pub output_is_default: bool,
    pub model: ModelConfig,
    pub data: DataConfig,
    pub report: ReportConfig,
    pub augment: AugmentConfig,
    pub loss: LossConfig,
    pub train: TrainConfig,
    pub optim: OptimConfig,
    pub freeze: FreezeConfig,
    pub lora: LoraConfig,
    pub eval: EvalConfig,
    #[serde(default)]
    pub track: TrackConfig,
    /// Every key with a value, defaults included, paths absolute: what `config.toml` of a run folder holds.
    #[serde(skip)]
    pub resolved: toml::Table,
}

impl Config {
    /// The value of a dotted key, defaults included.
    pub fn value(&self, name: &str) -> Option<&toml::Value> {
        let mut parts = name.split('.');
        let first = self.resolved.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// Pairs that one optimizer step sees.
    pub fn samples_per_step(&self) -> usize {
        self.train.batch_size * self.train.accum_freq
    }

    /// [`Self::to_toml`] as a run's folder keeps it: without `train.stop_after`, which pauses a part of a run and would
    /// end every later one where it began.
    pub fn to_keep(&self) -> String {
        let mut kept = self.resolved.clone();
        kept.get_mut("train").and_then(toml::Value::as_table_mut).map(|train| train.remove("stop_after"));
        toml::to_string(&kept).expect("a table of plain values is always TOML")
    }

    /// The resolved config as a file that `train` takes.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.resolved).expect("a table of plain values is always TOML")
    }
}
