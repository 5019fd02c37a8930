//! Low-rank adapters (LoRA, arXiv 2106.09685): beside a frozen matrix W (out, in) the product of two small trained
//! ones, B (out, rank) · A (rank, in), times alpha / rank. Adapters are weights like others, named `….lora_A.weight`
//! and `….lora_B.weight`; layers find them by that ([`crate::model::Builder`]).

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use serde::Deserialize;

use crate::model::freeze::{FreezeConfig, FreezeDepth};
use crate::model::params::{Init, LORA_A, LORA_B, Param, ParamSpec, Params, Part, is_adapter};

/// How adapters are made.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Width of the bottleneck; 0 = no adapters.
    pub rank: usize,
    /// What the product is multiplied by, times rank.
    pub alpha: f64,
    /// Share of an adapter's input that is dropped.
    pub dropout: f64,
    /// Layers that get one, by the last part of their names: `q_proj`, `fc1`, …
    pub targets: Vec<String>,
}

/// `params` with adapters for all target layers of towers that `freeze` does not freeze whole; how many there are.
/// B begins at 0, so that nothing changes at first.
///
/// # Errors
/// Whatever the device reports.
pub fn add(params: &Params, options: &LoraConfig, freeze: &FreezeConfig, seed: u64) -> Result<(Params, usize)> {
    let wanted = |p: &&Param| {
        let frozen = match p.spec.part {
            Part::Image => freeze.image == FreezeDepth::All,
            Part::Text => freeze.text == FreezeDepth::All,
            Part::Heads => true,
        };
        let layer = p.spec.name.strip_suffix(".weight").and_then(|n| n.rsplit('.').next()).unwrap_or_default();
        !frozen && p.spec.shape.rank() == 2 && options.targets.iter().any(|t| t == layer)
    };
    let mut all: Vec<(ParamSpec, Tensor)> =
        params.iter().map(|p| (p.spec.clone(), p.var.as_detached_tensor())).collect();
    let mut layers = 0;
    for p in params.iter().filter(wanted) {
        let (out, inner) = p.spec.shape.dims2()?;
        let layer = p.spec.name.strip_suffix(".weight").unwrap_or(&p.spec.name);
        // PEFT draws from ±1/√in evenly; this has the same spread.
        let a = Init::Normal((3.0 * inner as f64).powf(-0.5));
        for (end, shape, init) in [(LORA_A, (options.rank, inner), a), (LORA_B, (out, options.rank), Init::Const(0.0))]
        {
            let name = format!("{layer}{end}");
            let spec = ParamSpec { name, shape: shape.into(), init, decay: true, buffer: false, ..p.spec.clone() };
            let numbers = spec.random(seed, p.var.device())?;
            all.push((spec, numbers));
        }
        layers += 1;
    }
    let scale = options.alpha / options.rank as f64;
    Ok((Params::new(all)?.with_adapter_scale(scale), layers))
}

/// Weights with their adapters multiplied out and added: W + scale · B · A.
///
/// # Errors
/// An adapter without its layer.
pub fn merge(weights: Vec<(String, Tensor)>, scale: f64) -> Result<Vec<(String, Tensor)>> {
    let (adapters, mut weights): (Vec<_>, Vec<_>) = weights.into_iter().partition(|(name, _)| is_adapter(name));
    let adapters: HashMap<String, Tensor> = adapters.into_iter().collect();
    for (name, weight) in &mut weights {
        let Some(layer) = name.strip_suffix(".weight") else { continue };
        if let (Some(a), Some(b)) =
            (adapters.get(&format!("{layer}{LORA_A}")), adapters.get(&format!("{layer}{LORA_B}")))
        {
            *weight = (&*weight + (b.matmul(a)? * scale)?)?;
        }
    }
    Ok(weights)
}

/// [`merge`] of all weights of a model that has adapters.
///
/// # Errors
/// As there.
pub fn merged(params: &Params) -> Result<Params> {
    let weights: HashMap<String, Tensor> =
        merge(params.tensors(), params.adapter_scale().unwrap_or(0.0))?.into_iter().collect();
    let own = params.iter().filter_map(|p| Some((p.spec.clone(), weights.get(&p.spec.name)?.clone())));
    Params::new(own.collect())
}

/// Each adapted layer with its A and B.
pub fn adapters(weights: &[(String, Tensor)]) -> Vec<(String, Tensor, Tensor)> {
    let find = |name: String| weights.iter().find(|(n, _)| *n == name).map(|(_, t)| t.clone());
    let of = |(name, a): &(String, Tensor)| {
        let layer = name.strip_suffix(LORA_A)?;
        Some((layer.to_string(), a.clone(), find(format!("{layer}{LORA_B}"))?))
    };
    weights.iter().filter_map(of).collect()
}
