//! What training leaves as it is. Freezing goes from the input up, so that nothing below the lowest trained weight is
//! part of the graph: frozen weights cost no backward pass.

use serde::Deserialize;

use super::layers::bag_pool::BAG_POOLING;
use super::params::{Depth, Params, Part, is_adapter};
use crate::span::Span;

/// How much of a tower is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "WrittenDepth")]
pub enum FreezeDepth {
    /// Nothing.
    None,
    /// Embeddings and this many blocks, from the input up.
    Blocks(usize),
    /// The whole tower; its projection is a head and has its own switch.
    All,
}

/// How a depth is written.
#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenDepth {
    Blocks(usize),
    Word(String),
}

impl From<WrittenDepth> for FreezeDepth {
    fn from(written: WrittenDepth) -> Self {
        match written {
            WrittenDepth::Blocks(n) => Self::Blocks(n),
            WrittenDepth::Word(word) if word == "all" => Self::All,
            WrittenDepth::Word(_) => Self::None,
        }
    }
}

/// What training leaves as it is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // Fields are documented by the table of keys.
pub struct FreezeConfig {
    pub image: FreezeDepth,
    pub text: FreezeDepth,
    pub projections: bool,
    pub logit_scale: bool,
    /// How long the image tower stays frozen; `None` = to the end.
    pub image_until: Option<Span>,
    /// How long the text tower stays frozen; `None` = to the end.
    pub text_until: Option<Span>,
}

impl FreezeConfig {
    /// Nothing frozen.
    pub const NONE: Self = Self {
        image: FreezeDepth::None,
        text: FreezeDepth::None,
        projections: false,
        logit_scale: false,
        image_until: None,
        text_until: None,
    };

    /// How long the image and the text tower stay frozen; `None` = to the end.
    pub fn until(&self) -> [Option<Span>; 2] {
        [self.image_until, self.text_until]
    }
}

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
            Part::Heads if spec.name == "logit_scale" => !freeze.logit_scale,
            // SigLIP's bias is no projection and no scale: no key freezes it.
            Part::Heads if spec.name == "logit_bias" => true,
            // Nor is what stands for a bag.
            Part::Heads if spec.name.starts_with(BAG_POOLING) => true,
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
