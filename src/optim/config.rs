//! What is asked of the optimizer.

use serde::Deserialize;

use super::schedule::ScheduleKind;
use crate::span::Span;

/// The optimizer and its schedule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // Fields are documented by the table of keys.
pub struct OptimConfig {
    pub lr: f64,
    /// `None` = `lr`, here and below.
    pub lr_image: Option<f64>,
    pub lr_text: Option<f64>,
    pub lr_heads: Option<f64>,
    pub layer_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub schedule: ScheduleKind,
    pub warmup: Span,
    pub min_lr_ratio: f64,
}

impl OptimConfig {
    /// The image tower's learning rate.
    pub fn lr_image(&self) -> f64 {
        self.lr_image.unwrap_or(self.lr)
    }

    /// The text tower's learning rate.
    pub fn lr_text(&self) -> f64 {
        self.lr_text.unwrap_or(self.lr)
    }

    /// The learning rate of projections and logit_scale.
    pub fn lr_heads(&self) -> f64 {
        self.lr_heads.unwrap_or(self.lr)
    }
}
