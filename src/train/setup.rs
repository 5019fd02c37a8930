//! From what was prepared to a trainer that stands at its first or its resumed step.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, ensure};
use candle_core::DType;

use super::books::Books;
use super::checkpoint;
use super::handshake::agree;
use super::plan::plan;
use super::prepare::Prepared;
use super::records::{RunRecord, TrainState};
use super::supervision::Supervision;
use super::thaw;
use super::trainer::{Resume, Trainer};
use crate::config::{Config, LossKind, Precision};
use crate::dist::Collective;
use crate::loss::{ClassLoss, ClipLoss, Loss, MultiLabelLoss, MultiPositiveLoss, SiglipLoss};
use crate::optim::{AdamW, AdamWOptions, Ema};
use crate::track::RunFolder;

impl<'a> Trainer<'a> {
    pub(super) fn new(
        config: &'a Config,
        prepared: Prepared,
        run: Option<RunFolder>,
        resume: &Resume,
        world: Rc<dyn Collective>,
    ) -> Result<Self> {
        agree(&*world, config, &prepared)?;
        let plan = plan(config, &prepared, &*world);
        let Prepared {
            mut params,
            folder,
            train,
            val,
            device,
            data_fingerprint,
            skipped,
            device_reason,
            supervision,
            ..
        } = prepared;
        let frozen: Vec<bool> = params.iter().map(|p| !p.trainable).collect();
        // Moments for all that is ever trained.
        thaw::apply(config, plan.thaw, u64::MAX, &mut params);
        let mut optimizer = AdamW::new(&params, optimizer_options(config))?;
        for (param, _) in params.iter().zip(frozen).filter(|(p, frozen)| *frozen && p.trainable) {
            optimizer.starts_after(&param.spec.name, thaw::start_of(&plan, param.spec.part));
        }
        let ema = (config.train.ema > 0.0).then(|| Ema::new(&params, config.train.ema)).transpose()?;
        let fresh = TrainState { total_steps: plan.total_steps, data_fingerprint, ..TrainState::default() };
        let from = match resume {
            Resume::From(Some(checkpoint)) => Some(checkpoint.as_path()),
            Resume::No | Resume::From(None) => None,
        };
        let restored = world.from_first(|| Ok(from.is_some()))?;
        let mut state = if restored {
            let state = checkpoint::restore(&*world, from, &params, &mut optimizer, ema.as_ref())?;
            ensure!(
                state.data_fingerprint == fresh.data_fingerprint,
                "cannot resume: the pairs are not those that the run was started on; start a new run"
            );
            ensure!(
                state.step <= plan.total_steps,
                "cannot resume: the checkpoint is at step {}, and the run would end at step {}",
                state.step,
                plan.total_steps
            );
            state
        } else {
            fresh
        };
        state.total_steps = plan.total_steps;
        let record = RunRecord {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: option_env!("REPORTCLIP_REVISION").map(str::to_string),
            seed: config.seed,
            device: device_reason,
            data_fingerprint: state.data_fingerprint.clone(),
            pairs: (train.rows.len(), val.len()),
            parameters: params.count(),
            total_steps: plan.total_steps,
            ranks: world.size(),
        };
        let run_folder = run.as_ref().map(|run| run.path().to_path_buf());
        let books = Books::open(run, config, &record, &state)?;
        let mut trainer = Self {
            config,
            plan,
            supervision,
            optimizer,
            ema,
            saved_at: restored.then_some(state.step),
            unsaved: !restored,
            steps_at_chance: 0,
            state,
            params,
            train: Arc::new(train),
            val,
            folder,
            device,
            run_folder,
            books,
            world,
        };
        if restored {
            trainer.restore_best()?;
        } else {
            trainer.note_skipped(skipped)?;
        }
        Ok(trainer)
    }
}

/// In which type `config` has products with weights worked out.
pub fn products(config: &Config) -> DType {
    if config.train.precision == Precision::Bf16 { DType::BF16 } else { DType::F32 }
}

/// The objective that `config` names, with smoothing `eps`.
pub fn loss_of(config: &Config, supervision: &Supervision, label_smoothing: f64) -> Loss {
    let direction = config.loss.direction;
    let one = |kind: LossKind| match kind {
        LossKind::Clip => Loss::Clip(ClipLoss { label_smoothing, direction }),
        LossKind::Siglip => Loss::Siglip(SiglipLoss { label_smoothing }),
        LossKind::MultiPositive => Loss::MultiPositive(MultiPositiveLoss { label_smoothing, direction }),
        LossKind::Class => Loss::Class(ClassLoss { label_smoothing, weights: supervision.class_weights() }),
        LossKind::MultiLabel => Loss::MultiLabel(MultiLabelLoss { label_smoothing }),
    };
    match config.loss.kinds.as_slice() {
        [(kind, 1.0)] => one(*kind),
        kinds => Loss::Sum(kinds.iter().map(|(kind, weight)| (*weight, one(*kind))).collect()),
    }
}

fn optimizer_options(config: &Config) -> AdamWOptions {
    let o = &config.optim;
    AdamWOptions {
        lr_image: o.lr_image(),
        lr_text: o.lr_text(),
        lr_heads: o.lr_heads(),
        layer_decay: o.layer_decay,
        beta1: o.beta1,
        beta2: o.beta2,
        eps: o.eps,
        weight_decay: o.weight_decay,
        clip_grad_norm: config.train.clip_grad_norm,
    }
}
