//! The first step of a run without the run: forward and backward, and nothing changes.

use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::plan::Plan;
use super::prepare::Prepared;
use super::readable::MEND;
use super::step::TrainStep;
use crate::config::Config;
use crate::data::OnError;
use crate::dist::Collective;
use crate::loss::LossOutput;

/// What a first step gives.
#[derive(Clone, Debug)]
pub struct FirstStep {
    /// Its loss, without dropout.
    pub loss: LossOutput,
    /// How long it took, without reading data and without the update.
    pub seconds: f64,
}

/// Works out the loss and the gradients of the first step, without dropout.
///
/// # Errors
/// As those of a step.
pub fn try_first_step(config: &Config, prepared: &Prepared, plan: &Plan, world: &dyn Collective) -> Result<FirstStep> {
    let chunk =
        |places: &Range<usize>| prepared.train.batch(&plan.sampler.rows(0, places.clone()), places.start as u64);
    let batches: Vec<_> = plan.chunks.iter().map(chunk).collect::<Result<_>>()?;
    for e in batches.iter().flat_map(|b| &b.errors) {
        let place = format!("{}: {}", e.place, e.reason);
        ensure!(config.data.on_error == OnError::Skip, "{place}; {MEND}");
        tracing::warn!("{place}");
    }
    let batches: Vec<_> = batches.into_iter().filter(|b| b.pairs > 0).collect();
    let pairs = world.gather_numbers(&[batches.iter().map(|b| b.pairs as u32).sum()])?.0;
    ensure!(pairs.iter().sum::<u32>() >= 2, "fewer than 2 rows of the first step can be read");
    let eps = config.loss.label_smoothing.at(0, plan.smoothing_steps);
    let loss = prepared.supervision.loss(&config.loss, eps);
    let started = Instant::now();
    let step = TrainStep {
        supervision: Some(&prepared.supervision),
        products: prepared.products.dtype,
        checkpoint_activations: config.train.checkpoint_activations,
        images_at_once: config.train.batch_size,
        opposites: config.data.negation > 0.0,
        frozen: Some(&prepared.frozen),
        ..TrainStep::new(world, &prepared.folder.config, &prepared.params, &loss)
    };
    let (_, loss) = step.gradients(&batches)?;
    Ok(FirstStep { loss, seconds: started.elapsed().as_secs_f64() })
}
