//! What is trained at which step: the config's freezing, until a tower thaws.

use super::plan::Plan;
use crate::config::{Config, LossKind};
use crate::model::freeze::FreezeDepth;
use crate::model::{Params, Part, freeze};

/// The tower thaws at this step; a tower that never does has none.
pub(super) type ThawSteps = [Option<u64>; 2];

/// Marks what is trained at step number `step`, from 0.
pub(super) fn apply(config: &Config, thaw: ThawSteps, step: u64, params: &mut Params) {
    let mut now = config.freeze;
    let thawed = |at: Option<u64>| at.is_some_and(|at| step >= at);
    if thawed(thaw[0]) {
        now.image = FreezeDepth::None;
    }
    if thawed(thaw[1]) {
        now.text = FreezeDepth::None;
    }
    freeze::apply(&now, params);
    if !config.loss.has(LossKind::Siglip)
        && let Some(bias) = params.iter_mut().find(|p| p.spec.name == "logit_bias")
    {
        bias.trainable = false;
    }
}

/// The update from which a weight of this part that is frozen at first is trained: the optimizer counts from there.
pub(super) fn start_of(plan: &Plan, part: Part) -> u64 {
    match part {
        Part::Image => plan.thaw[0].unwrap_or(0),
        Part::Text => plan.thaw[1].unwrap_or(0),
        Part::Heads => 0,
    }
}
