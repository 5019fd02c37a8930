//! What training leaves as it is. Freezing goes from the input up, so that nothing below the lowest trained weight is
//! part of the graph: frozen weights cost no backward pass.

use super::lora::is_adapter;
use super::params::{Depth, Params, Part};
use crate::config::{FreezeConfig, FreezeDepth};

/// Marks every weight of `params` as trainable or not.
pub fn apply(freeze: &FreezeConfig, params: &mut Params) {
    // With adapters, towers train nothing else.
    let adapted = params.adapter_scale().is_some();
    for param in params.iter_mut() {
        let spec = &param.spec;
        param.trainable = match spec.part {
            _ if spec.buffer => false,
            Part::Image | Part::Text if adapted && !is_adapter(&spec.name) => false,
            Part::Image => !covers(freeze.image, spec.depth),
            Part::Text => !covers(freeze.text, spec.depth),
            Part::Heads if matches!(spec.name.as_str(), "logit_scale" | "logit_bias") => !freeze.logit_scale,
            Part::Heads => !freeze.projections,
        };
    }
}

fn covers(freeze: FreezeDepth, depth: Depth) -> bool {
    match (freeze, depth) {
        (FreezeDepth::None, _) => false,
        (FreezeDepth::All, _) => true,
        (FreezeDepth::Blocks(_), Depth::Embeddings) => true,
        (FreezeDepth::Blocks(n), Depth::Block(i)) => i < n,
        (FreezeDepth::Blocks(_), Depth::Final) => false,
    }
}
