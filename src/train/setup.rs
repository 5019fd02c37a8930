//! From what was prepared to a trainer that stands at its first or its resumed step.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::chance::ChanceWatch;
use super::checkpoint;
use super::data_fingerprint::{DataFingerprint, row_places};
use super::handshake::agree;
use super::plan::{Plan, plan};
use super::prepare::Prepared;
use super::records::{Progress, RunRecord, SkippedRow};
use super::run_writer::RunWriter;
use super::state::State;
use super::thaw;
use super::trainer::Trainer;
use crate::config::Config;
use crate::dist::Collective;
use crate::error::Interrupted;
use crate::model::Params;
use crate::optim::{AdamW, AdamWOptions, Ema};
use crate::session::Products;
use crate::track::{Event, Note, RunFolder};

impl<'a> Trainer<'a> {
    /// A trainer that stands at step 0, or where the first rank's `checkpoint` does.
    pub(super) fn new(
        config: &'a Config,
        prepared: Prepared,
        run: Option<RunFolder>,
        checkpoint: Option<&Path>,
        world: Rc<dyn Collective>,
    ) -> Result<Self> {
        agree(&*world, config, &prepared)?;
        let plan = plan(config, &prepared, &*world);
        // Reading all images once is enough: ranks agree in what they are called.
        let data = world.from_first(|| Ok(DataFingerprint::of(config, &prepared)))?.ok_or_else(|| {
            // Every rank ends here, as one.
            Interrupted("stopped, as asked, while the images were read; no step was made".into())
        })?;
        run.as_ref().map_or(Ok(()), |run| data.check_teacher(run.path(), config))?;
        let places = row_places(&prepared);
        let Prepared { params, folder, train, mut val, test, device, skipped, device_reason, products, .. } = prepared;
        let progress = Progress { total_steps: plan.total_steps, data_fingerprint: data.hex(), ..Progress::default() };
        let mut state = fresh_state(config, &plan, params, progress)?;
        let pairs = (train.rows.len(), val.len());
        // With all that is ever trained.
        let parameters = state.params.count();
        let restored = world.from_first(|| Ok(checkpoint.is_some()))?;
        let mut changed = None;
        if restored {
            checkpoint::restore(&*world, checkpoint, &mut state)?;
            if state.progress.data_fingerprint != data.hex() {
                let before = run.as_ref().and_then(|run| DataFingerprint::read(run.path()));
                return Err(data.refused(before.as_ref()));
            }
            same_places(&state.progress, &places)?;
            goes_on(&mut state.progress, &plan)?;
            changed = other_products(&mut state.progress, &products);
            // As in the run that was not stopped: what could not be read takes no part any more.
            let skipped = &state.progress.skipped;
            val.retain(|row| !skipped.contains(&SkippedRow::unreadable("val", (row.origin().number, row.line))));
        } else if let Some(run) = &run {
            begins_with(run, &data)?;
        }
        state.progress.row_places = Some(places);
        state.progress.products.get_or_insert_with(|| products.in_full());
        let record = RunRecord {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: option_env!("REPORTCLIP_REVISION").map(str::to_string),
            seed: config.seed,
            device: device_reason,
            products: products.reason.clone(),
            data_fingerprint: state.progress.data_fingerprint.clone(),
            pairs,
            parameters,
            total_steps: plan.total_steps,
            ranks: world.size(),
        };
        let folder_path = run.as_ref().map(|run| run.path().to_path_buf());
        let writer = RunWriter::open(run, config, &record, &state.progress)?;
        if let Some(path) = folder_path.filter(|_| !restored) {
            data.write(&path)?;
        }
        let frozen = thaw::apply(config, plan.thaw, state.progress.step, &mut state.params);
        let mut trainer = Self {
            config,
            plan,
            supervision: prepared.supervision,
            prompts: prepared.prompts,
            best_metric: prepared.best_metric,
            told_no_figure: false,
            saved_at: restored.then_some(state.progress.step),
            unsaved: !restored,
            chance: ChanceWatch::default(),
            frozen,
            sentences: None,
            state,
            train: Arc::new(train),
            val,
            test,
            train_images: data.train_images,
            folder,
            device,
            products: products.dtype,
            writer,
            world,
        };
        if restored {
            trainer.hand_to_sampler();
            tracing::info!("resumed at step {} of {}", trainer.step_number(), trainer.plan.total_steps);
        }
        changed.map_or(Ok(()), |text| trainer.emit(&Event::Note(Note::warning(text))))?;
        if restored {
            trainer.restore_best()?;
        } else {
            trainer.note_skipped(skipped.into_iter().map(|row| (row, None)).collect())?;
        }
        Ok(trainer)
    }
}

/// Weights as they were opened, moments at 0 for all that is ever trained.
fn fresh_state(config: &Config, plan: &Plan, mut params: Params, progress: Progress) -> Result<State> {
    let frozen: Vec<bool> = params.iter().map(|p| !p.trainable).collect();
    thaw::apply(config, plan.thaw, u64::MAX, &mut params);
    let mut optimizer = AdamW::new(&params, optimizer_options(config))?;
    for (param, _) in params.iter().zip(frozen).filter(|(p, frozen)| *frozen && p.trainable) {
        optimizer.starts_after(&param.spec.name, thaw::start_of(plan.thaw, param.spec.part));
    }
    let ema = (config.train.ema > 0.0).then(|| Ema::new(&params, config.train.ema)).transpose()?;
    let neighbours = (config.data.hard_negatives.k > 0).then(Arc::default);
    Ok(State { params, optimizer, ema, neighbours, progress })
}

/// Whether a run that was stopped before its first checkpoint begins anew with the same data.
fn begins_with(run: &RunFolder, data: &DataFingerprint) -> Result<()> {
    match DataFingerprint::read(run.path()) {
        Some(before) if before.hex() != data.hex() => Err(data.refused(Some(&before))),
        _ => Ok(()),
    }
}

/// Whether the rows that were left out so far, which are known by file and line, are the same ones there now.
fn same_places(progress: &Progress, now: &str) -> Result<()> {
    ensure!(
        progress.skipped.is_empty() || progress.row_places.as_deref() == Some(now),
        "cannot resume: rows that were left out ({}, see skipped.jsonl) are known by file and line, and rows stand at \
         other lines now; put them back as they were, or start a new run",
        progress.skipped.len()
    );
    Ok(())
}

/// Whether a checkpoint is not past the run's end.
fn goes_on(progress: &mut Progress, plan: &Plan) -> Result<()> {
    ensure!(
        progress.step <= plan.total_steps,
        "cannot resume: the checkpoint is at step {}, and the run would end at step {}",
        progress.step,
        plan.total_steps
    );
    progress.total_steps = plan.total_steps;
    Ok(())
}

/// Told, and noted for the card, where products go on in another type than the checkpoint's last steps had. Older
/// checkpoints do not say, and a run that is done goes nowhere.
fn other_products(progress: &mut Progress, now: &Products) -> Option<String> {
    let before = progress.products.clone()?;
    let next = now.in_full();
    let same = before.rsplit(", then ").next() == Some(next.as_str());
    if same || progress.step == progress.total_steps {
        return None;
    }
    progress.products = Some(format!("{before}, then {next}"));
    Some(format!(
        "the checkpoint's {} steps had products in {before}, the next ones have them in {next}: the run ends near, not \
         at, the same weights",
        progress.step
    ))
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
