//! The sections of a config that belong to no one module: the model's choice, the length of training, validation.
//!
//! The others live with their owners: `crate::data`, `crate::model`, `crate::optim`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use crate::metrics::Metric;
use crate::model::{BagPoolingKind, BagPoolingRequest, BagPosition};
use crate::span::Span;
use crate::words::words;

words!(
    /// Where weights come from.
    ModelInit {
        /// From `model.path`.
        Pretrained = "pretrained",
        /// Fresh, shaped by `model.random`.
        Random = "random",
    }
);
words!(
    /// What leads from a tower's width to the shared space.
    ProjectionKind {
        /// One matrix.
        Linear = "linear",
        /// Two with GELU between them.
        Mlp = "mlp",
    }
);
words!(
    /// Numbers in products with weights.
    Precision {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with the range of 32.
        Bf16 = "bf16",
    }
);

/// Where the model comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // Fields are documented by the table of keys, here and below.
pub struct ModelConfig {
    pub init: ModelInit,
    pub path: Option<String>,
    pub image: Option<String>,
    pub text: Option<String>,
    /// `None` = auto.
    #[serde(deserialize_with = "unless_auto")]
    pub image_pooling: Option<String>,
    /// `None` = auto.
    #[serde(deserialize_with = "unless_auto")]
    pub text_pooling: Option<String>,
    pub projection: ProjectionKind,
    pub embed_dim: usize,
    /// `None` = auto.
    #[serde(deserialize_with = "unless_auto")]
    pub bag_pooling: Option<String>,
    pub bag_hidden: Option<usize>,
    /// `None` = auto.
    #[serde(deserialize_with = "unless_auto")]
    pub bag_position: Option<String>,
    pub image_size: Option<usize>,
    pub context_length: Option<usize>,
    pub tokenizer: Option<PathBuf>,
    pub random: RandomModelConfig,
}

/// Shape of a fresh model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct RandomModelConfig {
    pub vocab_size: usize,
    pub embed_dim: usize,
    pub patch_size: usize,
    pub vision_width: usize,
    pub vision_layers: usize,
    pub vision_heads: usize,
    pub text_width: usize,
    pub text_layers: usize,
    pub text_heads: usize,
}

impl ModelConfig {
    /// What is asked for of the bag pooling.
    pub fn bag_pooling_request(&self) -> BagPoolingRequest {
        BagPoolingRequest {
            kind: self.bag_pooling.as_deref().and_then(BagPoolingKind::find),
            hidden: self.bag_hidden,
            position: self.bag_position.as_deref().and_then(BagPosition::find),
        }
    }
}

fn metric_or_auto<'de, D: Deserializer<'de>>(written: D) -> Result<Option<Metric>, D::Error> {
    Ok(Metric::find(&String::deserialize(written)?))
}

/// Length and rhythm of training.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TrainConfig {
    pub batch_size: usize,
    pub accum_freq: usize,
    pub epochs: u64,
    pub max_steps: Option<u64>,
    pub max_samples: Option<u64>,
    pub stop_after: Option<u64>,
    pub eval_every: Span,
    pub checkpoint_every: Span,
    /// `None` = auto: what fits the objective.
    #[serde(deserialize_with = "metric_or_auto")]
    pub best_metric: Option<Metric>,
    pub early_stopping: u64,
    pub clip_grad_norm: f64,
    /// 0 = none.
    pub ema: f64,
    pub dropout: f64,
    pub patch_dropout: f64,
    /// Keep only each block's input for the backward pass.
    pub checkpoint_activations: bool,
    pub tensorboard: bool,
    pub precision: Precision,
    pub emulate_bf16: bool,
    pub tensor_cores: bool,
    pub overlap_copies: bool,
    /// Seconds.
    pub rank_timeout: u64,
    pub log_every: u64,
}

/// How validation is done.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EvalConfig {
    pub batch_size: usize,
    pub gallery: usize,
    pub bootstrap: usize,
}

/// A word, or nothing where it is "auto".
pub(super) fn unless_auto<'de, D: Deserializer<'de>>(written: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(written)?).filter(|word| word != "auto"))
}
