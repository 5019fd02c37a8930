//! What a run will do, worked out before it starts: steps, and an estimate of memory.

use std::ops::Range;
use std::sync::Arc;

use candle_core::DType;

use super::order::sampler;
use super::prepare::Prepared;
use super::thaw::ThawSteps;
use crate::config::Config;
use crate::data::Sampler;
use crate::dist::Collective;
use crate::optim::{Schedule, ScheduleKind};

/// Lengths in steps, and memory in MiB.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Steps in all.
    pub total_steps: u64,
    /// Steps until all pairs that fill a step were seen.
    pub steps_per_epoch: u64,
    /// Steps between validations.
    pub eval_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Steps at which towers thaw.
    pub(super) thaw: ThawSteps,
    /// Steps over which label smoothing changes.
    pub smoothing_steps: u64,
    /// The learning rate.
    pub schedule: Schedule,
    /// Steps between minings of hard negatives.
    pub mine_every: u64,
    /// Order of pairs.
    pub sampler: Arc<Sampler>,
    /// Where the chunks of this rank stand in a step: its share of the step's pairs, `train.batch_size` at once.
    pub chunks: Vec<Range<usize>>,
    /// Weights, gradients and moments, about.
    pub weights_mib: u64,
    /// Activations of one chunk, about.
    pub activations_mib: u64,
}

/// The plan of this rank of `world` for what was prepared, of which the pairs must fill a step.
pub fn plan(config: &Config, prepared: &Prepared, world: &dyn Collective) -> Plan {
    let Prepared { train, sources, folder, params, device, products, .. } = prepared;
    let narrow = products.dtype == DType::BF16 && device.is_cpu();
    let (rows, model, t) = (&train.rows, &folder.config, &config.train);
    let own = world.share(config.samples_per_step());
    let at_once = t.batch_size.min(own.len());
    let sampler = Arc::new(sampler(config, rows, sources));
    let per_step = config.samples_per_step() as u64;
    let steps_per_epoch = sampler.steps_per_epoch();
    let total_steps = match (t.max_steps, t.max_samples) {
        (Some(steps), _) => steps,
        (None, Some(samples)) => samples.div_ceil(per_step),
        (None, None) => t.epochs * steps_per_epoch,
    };
    let steps = |span: crate::span::Span| span.steps(per_step, steps_per_epoch, total_steps);
    let warmup = steps(config.optim.warmup).min(total_steps);
    let (all, trainable) = params.count();
    // f32 weights, and two moments of what is trained; gradients where they wait for their norm or for the last chunk;
    // averages. Of chunks in bf16 all use the weights as they were packed, each way.
    let chunked = own.len() > at_once;
    let gradients = if t.clip_grad_norm > 0.0 || chunked { trainable } else { 0 };
    let averages = if t.ema > 0.0 { trainable } else { 0 };
    let packed = if narrow && chunked { all } else { 0 };
    let weights = 4 * (all + 2 * trainable + gradients + averages + packed);
    Plan {
        total_steps,
        steps_per_epoch,
        eval_every: steps(t.eval_every).max(1),
        checkpoint_every: steps(t.checkpoint_every).max(1),
        thaw: config.freeze.until().map(|until| until.map(steps)),
        smoothing_steps: steps(config.loss.label_smoothing.over),
        schedule: Schedule {
            kind: config.optim.schedule,
            warmup,
            total: total_steps,
            min_ratio: config.optim.min_lr_ratio,
        },
        mine_every: steps(config.data.hard_negatives.refresh).max(1),
        sampler,
        weights_mib: (weights >> 20) as u64,
        activations_mib: ((at_once * model.activation_bytes(narrow)) >> 20) as u64,
        chunks: own.clone().step_by(t.batch_size).map(|start| start..(start + t.batch_size).min(own.end)).collect(),
    }
}

impl Plan {
    /// Whether a run of this plan may go on where one of plan `before` stopped: another length changes the learning
    /// rate of every step, unless that is flat after the same warm-up.
    pub fn continues(&self, before: &Plan) -> bool {
        let flat = |p: &Plan| (p.schedule.kind == ScheduleKind::Constant).then_some(p.schedule.warmup);
        self.total_steps == before.total_steps || (flat(self).is_some() && flat(self) == flat(before))
    }
}
