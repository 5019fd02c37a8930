//! What towers need of an open_clip model to read their part of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::json::Section;
use super::rename::How::Same;
use super::rename::{Renames, Rule};
use crate::model::layers::projection::Projection;
use crate::ops::Activation;

/// What both of CLIP's own transformers call their blocks.
pub const BLOCKS: &[Rule] = &[
    ("transformer.resblocks.*.ln_1.*", "encoder.layers.*.layer_norm1.*", Same),
    ("transformer.resblocks.*.attn.in_proj_weight", "encoder.layers.*.self_attn.{q|k|v}_proj.weight", Same),
    ("transformer.resblocks.*.attn.in_proj_bias", "encoder.layers.*.self_attn.{q|k|v}_proj.bias", Same),
    ("transformer.resblocks.*.attn.out_proj.*", "encoder.layers.*.self_attn.out_proj.*", Same),
    ("transformer.resblocks.*.ln_2.*", "encoder.layers.*.layer_norm2.*", Same),
    ("transformer.resblocks.*.mlp.c_fc.*", "encoder.layers.*.mlp.fc1.*", Same),
    ("transformer.resblocks.*.mlp.c_proj.*", "encoder.layers.*.mlp.fc2.*", Same),
];

/// How open_clip has a tower.
pub struct OpenClipTower<C> {
    /// Whether a `vision_cfg` or `text_cfg` is this tower's.
    pub claims: fn(&Section) -> Result<bool>,
    /// Reads it and says how its tensors are named.
    pub read: fn(&mut OpenClipReader, &Section) -> Result<(C, Projection)>,
}

/// What the files of the model say, and the names found so far.
pub struct OpenClipReader<'a> {
    /// Shapes of all tensors.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Names found so far.
    pub renames: Renames,
    /// JSON files beside the model's own that were read.
    pub beside: Vec<(String, Value)>,
    /// `quick_gelu` of the model.
    pub quick_gelu: bool,
    /// Width of the shared space.
    pub embed_dim: usize,
    /// The config.json of another repository, where the model's folder holds it under that name.
    pub repository: &'a dyn Fn(&str) -> Result<Option<Value>>,
}

impl OpenClipReader<'_> {
    /// The activation of towers that say none.
    pub fn activation(&self) -> Activation {
        if self.quick_gelu { Activation::QuickGelu } else { Activation::Gelu }
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// One side of a tensor that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn side(&self, name: &str, dim: usize) -> Result<usize> {
        let shape = self.shapes.get(name).with_context(|| format!("tensor {name} is missing"))?;
        shape.get(dim).copied().with_context(|| format!("tensor {name} has shape {shape:?}"))
    }

    /// How many of `prefix.0.`, `prefix.1.`, … there are.
    pub fn count(&self, prefix: &str) -> usize {
        let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        self.shapes.keys().filter_map(number).max().map_or(0, |last| last + 1)
    }
}

/// The epsilon of a tower's norms.
///
/// # Errors
/// It is no number.
pub fn norm_eps(s: &Section) -> Result<f64> {
    Section::of(s.json, "norm_kwargs").number("eps", 1e-5)
}
