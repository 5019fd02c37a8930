//! What a checkpoint holds: everything that a step changes.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::records::Progress;
use crate::data::Neighbours;
use crate::model::Params;
use crate::optim::{AdamW, Ema};

/// Weights, moments, averages, and how far the run is.
pub(super) struct State {
    /// The weights, with what is frozen marked.
    pub params: Params,
    /// Their moments.
    pub optimizer: AdamW,
    /// Their averages, where the run keeps them.
    pub ema: Option<Ema>,
    /// The hardest negatives of each training row, as mined last; `None` where none are mined.
    pub neighbours: Option<Arc<Neighbours>>,
    /// Everything that is not a tensor.
    pub progress: Progress,
}

impl State {
    /// The weights that are evaluated and handed over: the averages, where the run keeps them.
    pub fn evaluated(&self) -> &Params {
        self.ema.as_ref().map_or(&self.params, Ema::params)
    }

    /// The logarithm of what similarities are multiplied by.
    pub fn logit_scale(&self) -> Result<f64> {
        let param = self.params.get("logit_scale").context("a CLIP has a logit_scale")?;
        Ok(f64::from(param.var.to_scalar::<f32>()?))
    }
}
