//! What is trained at which step: the config's freezing, until a tower thaws.

use crate::config::Config;
use crate::model::freeze::{FreezeConfig, FreezeDepth};
use crate::model::{Params, Part};
use crate::session::Frozen;

/// The tower thaws at this step; a tower that never does has none.
pub(super) type ThawSteps = [Option<u64>; 2];

/// What is frozen at step number `step`, from 0.
pub(super) fn freeze_at(config: &Config, thaw: ThawSteps, step: u64) -> FreezeConfig {
    let mut now = config.freeze;
    let thawed = |at: Option<u64>| at.is_some_and(|at| step >= at);
    if thawed(thaw[0]) {
        now.image = FreezeDepth::None;
    }
    if thawed(thaw[1]) {
        now.text = FreezeDepth::None;
    }
    now
}

/// Marks what is trained at step number `step`, from 0.
pub(super) fn apply(config: &Config, thaw: ThawSteps, step: u64, params: &mut Params) -> Frozen {
    let frozen = Frozen::apply(freeze_at(config, thaw, step), config.train.dropout, params);
    if config.loss.uses_bias().is_none()
        && let Some(bias) = params.iter_mut().find(|p| p.spec.name == "logit_bias")
    {
        bias.trainable = false;
    }
    frozen
}

/// The update from which a weight of this part that is frozen at first is trained: the optimizer counts from there.
pub(super) fn start_of(thaw: ThawSteps, part: Part) -> u64 {
    match part {
        Part::Image => thaw[0].unwrap_or(0),
        Part::Text => thaw[1].unwrap_or(0),
        Part::Heads => 0,
    }
}
