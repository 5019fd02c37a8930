//! `reportclip train`.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{output, table, usage};
use crate::config::{self, Config};
use crate::device;
use crate::dist::{self, Collective};
use crate::error::{Interrupted, Problem, Problems};
use crate::eval::Validation;
use crate::fs::check_writable;
use crate::model::ClipConfig;
use crate::ops;
use crate::track::{Level, Note, RunFolder};
use crate::train::stop::{Cause, Stopped};
use crate::train::{self, FirstStep, Outcome, Plan, Prepared, Resume, TestFigures};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip train configs/demo.toml
  reportclip train my.toml --set seed=1 --set optim.lr=5e-6 --out runs/seed-1
  reportclip train my.toml --dry-run
  reportclip train my.toml --out runs/seed-1 --resume latest
  mpirun -n 4 --bind-to none reportclip train my.toml")]
pub(super) struct Args {
    /// Config file (TOML); `reportclip config list` shows all keys
    config: PathBuf,
    /// Change a key of the config, for example --set train.batch_size=16
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Continue a run: "latest" (of the run folder, also without a value), a run folder or a checkpoint folder
    #[arg(long, value_name = "latest|PATH", num_args = 0..=1, default_missing_value = "latest")]
    resume: Option<String>,
    /// Open what the config names, run one step, print the plan (with --json as one object); make no run folder
    #[arg(long)]
    dry_run: bool,
    /// Run folder; default runs/<config name>
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the outcome, or the plan, as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, world: &Rc<dyn Collective>) -> Result<()> {
    let outcome = train_or_try(args, world);
    // Whoever reads the plan reads what keeps it from being one.
    let problems = outcome.as_ref().err().and_then(|e| e.downcast_ref::<Problems>());
    if let Some(problems) = problems.filter(|_| args.dry_run && args.json) {
        let lines: Vec<&str> = problems.0.iter().map(|problem| problem.0.as_str()).collect();
        output::print_json(&json!({ "problems": lines }))?;
    }
    outcome
}

fn train_or_try(args: &Args, world: &Rc<dyn Collective>) -> Result<()> {
    let load = if args.resume.is_some() { config::load_to_resume } else { config::load };
    let config = load(&args.config, &args.set)?;
    world.lost_after(Duration::from_secs(config.train.rank_timeout));
    device::share_cores(world.local().1, ops::online_cores())?;
    let (folder, resume) = match &args.resume {
        // The run folder is the first rank's alone.
        _ if !world.is_first() => (None, Resume::No),
        None => {
            // Better told now than after data and model were read.
            let path = fresh_path(&config, args);
            RunFolder::check_free(&path).map_err(|e| usage::wrong(&e))?;
            if !args.dry_run {
                check_writable(&path).context("run folder")?;
            }
            if let Some(other) = RunFolder::of_config(&args.config).filter(|_| !args.dry_run) {
                let (other, path) = (other.display(), path.display());
                tracing::info!("a new run with the config of {other} goes to {path}; --resume goes on with that one");
            }
            (None, Resume::No)
        }
        Some(from) => {
            let (folder, resume) = train::find_run(&config, &args.config, args.out.as_deref(), from)?;
            (Some(folder), resume)
        }
    };
    // Phantoms may be drawn and models fetched: once a host.
    let prepared = world.in_turn(|| train::prepare(&config, &**world))?;
    let world = &dist::on_device(world, &prepared.device)?;
    ensure!(
        config.samples_per_step() >= world.size(),
        "train.batch_size × train.accum_freq is {}, fewer than the {} ranks",
        config.samples_per_step(),
        world.size()
    );
    let plan = train::plan(&config, &prepared, &**world);
    if !args.dry_run {
        // The plan of a dry run tells it.
        Note::choice(&prepared.products.reason).log();
    }
    prepared.notes.iter().for_each(Note::log);
    check_memory(&plan, world.local().1)?;
    if args.dry_run {
        let first = train::try_first_step(&config, &prepared, &plan, &**world)?;
        return dry_run(&Trial { config: &config, prepared: &prepared, plan: &plan, first }, args.json);
    }
    let folder = match folder {
        Some(folder) => {
            let changed = train::check_same_config(&config, &folder, &prepared, &plan)?;
            if !changed.is_empty() {
                let kept = folder.config_path();
                tracing::info!("goes on, and from now on keeps in {}: {}", kept.display(), changed.join(", "));
            }
            Some(folder)
        }
        None if world.is_first() => Some(RunFolder::create(&fresh_path(&config, args))?),
        None => None,
    };
    train::stop::listen()?;
    if let Some(folder) = &folder {
        let among = if world.size() > 1 { format!(", {} processes", world.size()) } else { String::new() };
        tracing::info!(
            "run folder {}: {} training and {} validation pairs, {} steps{among}",
            folder.path().display(),
            prepared.train.rows.len(),
            prepared.val.len(),
            plan.total_steps
        );
    }
    let outcome = train::train(&config, prepared, folder.clone(), &resume, Rc::clone(world))?;
    folder.map_or(Ok(()), |folder| report(&outcome, &folder, args.json))?;
    match outcome.stopped {
        Some(Stopped { cause: Cause::Signal, text }) => Err(Interrupted(text).into()),
        _ => Ok(()),
    }
}

/// Says when memory will not do; refuses what is far out of reach, because the system would end the process unasked.
fn check_memory(plan: &Plan, ranks_here: usize) -> Result<()> {
    let needed = (plan.weights_mib + plan.activations_mib) * ranks_here as u64;
    let Some(there) = ops::physical_memory_mib() else { return Ok(()) };
    let text = format!(
        "training needs about {needed} MiB, and this machine has {there} MiB; a smaller train.batch_size with a larger \
         train.accum_freq gives the same loss in less memory"
    );
    if needed > 8 * there {
        return Err(Problems(vec![Problem(text)]).into());
    }
    if needed > there {
        tracing::warn!("{text}");
    }
    Ok(())
}

/// Where a fresh run goes. A default name is numbered on; a name that somebody chose is taken as it is.
fn fresh_path(config: &Config, args: &Args) -> PathBuf {
    match &args.out {
        Some(out) => out.clone(),
        None if config.output_is_default => RunFolder::first_free(&config.output),
        None => config.output.clone(),
    }
}

/// What a dry run came to.
struct Trial<'a> {
    config: &'a Config,
    prepared: &'a Prepared,
    plan: &'a Plan,
    first: FirstStep,
}

fn dry_run(trial: &Trial, json: bool) -> Result<()> {
    let reports = trial.prepared.train.rows.iter().map(|row| row.report());
    let truncated = trial.prepared.train.tokenizer.count_truncated(reports)?;
    if json { output::print_json(&trial.json(truncated)) } else { output::print(&trial.lines(truncated).join("\n")) }
}

impl Trial<'_> {
    /// For people; `truncated` training reports are longer than the model reads.
    fn lines(&self, truncated: usize) -> Vec<String> {
        let Trial { config, prepared, plan, first: FirstStep { loss: step_loss, seconds } } = self;
        let (all, trainable) = prepared.params.count();
        let c: &ClipConfig = &prepared.folder.config;
        let pairs = prepared.train.rows.len();
        vec![
            format!(
                "model: {all} weights, {trainable} trained; images {0}×{0}, {1} tokens",
                c.vision.image_size(),
                c.text.context_length()
            ),
            format!(
                "data: {pairs} training pairs, {} validation pairs; {truncated} training reports ({:.1} %) are longer \
                 than {} tokens",
                prepared.val.len(),
                100.0 * truncated as f64 / pairs as f64,
                c.text.context_length()
            ),
            format!(
                "steps: {} of {} pairs ({} an epoch), warm-up {}, validation every {}, checkpoint every {}",
                plan.total_steps,
                config.samples_per_step(),
                plan.steps_per_epoch,
                plan.schedule.warmup,
                plan.eval_every,
                plan.checkpoint_every
            ),
            format!(
                "memory: about {} MiB for weights and optimizer, {} MiB for activations; {} MiB at most so far",
                plan.weights_mib,
                plan.activations_mib,
                ops::peak_rss_mib()
            ),
            format!(
                "one step: loss {:.4} without smoothing (chance {:.4}), {seconds:.2} s without AdamW; {} in all at \
                 that speed",
                step_loss.loss_hard,
                step_loss.chance,
                duration(seconds * plan.total_steps as f64)
            ),
            prepared.products.reason.clone(),
            "dry run: no run folder was made".to_string(),
        ]
    }

    /// The same as one object, with the warnings that go to stderr.
    fn json(&self, truncated: usize) -> Value {
        let Trial { config, prepared, plan, first } = self;
        let (all, trainable) = prepared.params.count();
        let c: &ClipConfig = &prepared.folder.config;
        let warnings = prepared.notes.iter().filter(|note| note.level == Level::Warning);
        json!({
            "parameters": all, "trainable": trainable, "image_size": c.vision.image_size(),
            "context_length": c.text.context_length(), "training_pairs": prepared.train.rows.len(),
            "validation_pairs": prepared.val.len(), "truncated_reports": truncated, "steps": plan.total_steps,
            "pairs_a_step": config.samples_per_step(), "steps_an_epoch": plan.steps_per_epoch,
            "warmup": plan.schedule.warmup, "eval_every": plan.eval_every, "checkpoint_every": plan.checkpoint_every,
            "weights_mib": plan.weights_mib, "activations_mib": plan.activations_mib,
            "peak_rss_mib": ops::peak_rss_mib(), "machine_mib": ops::physical_memory_mib(),
            "loss_hard": first.loss.loss_hard, "chance": first.loss.chance, "step_s": first.seconds,
            "device": prepared.device_reason, "precision": prepared.products.kind(),
            "products": prepared.products.reason, "problems": [],
            "warnings": warnings.map(|note| note.text.as_str()).collect::<Vec<_>>(),
        })
    }
}

/// Seconds, for people.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 100.0 => format!("{s:.0} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

fn report(outcome: &Outcome, folder: &RunFolder, json: bool) -> Result<()> {
    if let Some(Stopped { text, .. }) = outcome.stopped.as_ref().filter(|s| s.cause != Cause::Signal) {
        tracing::warn!("{text}");
    }
    if json {
        return output::print_json(&json!({
            "run_folder": folder.path().display().to_string(), "model": folder.model().display().to_string(),
            "steps": outcome.steps, "total_steps": outcome.total_steps,
            "stopped": outcome.stopped.as_ref().map(|s| &s.text),
            "stopped_by": outcome.stopped.as_ref().map(|s| s.cause.word()),
            "seconds": outcome.seconds, "untuned": outcome.untuned,
            "best_step": outcome.best.as_ref().map(|b| b.step), "best": outcome.best.as_ref().map(|b| &b.validation),
            "best_metric": outcome.best_metric.word(), "test": outcome.test,
        }));
    }
    tables(outcome)?;
    output::print(&format!("{} of {} steps in {:.1} s", outcome.steps, outcome.total_steps, outcome.seconds))?;
    output::print(&format!("model: {}", folder.model().display()))?;
    output::print(&format!("run: {}", folder.path().display()))?;
    output::print(&format!("page: {}", folder.path().join("report.html").display()))
}

/// Figures before and after: of the split that chose nothing where there is one, else of the validation pairs.
fn tables(outcome: &Outcome) -> Result<()> {
    let (metric, best) = (outcome.best_metric, outcome.best.as_ref());
    if let Some(TestFigures { pairs, untuned, tuned }) = &outcome.test {
        let name = format!("tuned (step {})", best.map_or(outcome.steps, |best| best.step));
        let columns: Vec<(&str, &Validation)> =
            untuned.iter().map(|u| ("untuned", u)).chain([(name.as_str(), tuned)]).collect();
        output::print(&table::validations(&columns))?;
        output::print(&format!("judged on the {pairs} pairs of the split test, which chose nothing"))?;
    }
    if let (Some(untuned), Some(best)) = (&outcome.untuned, best) {
        if outcome.test.is_none() {
            let tuned = format!("tuned (step {})", best.step);
            output::print(&table::validations(&[("untuned", untuned), (&tuned, &best.validation)]))?;
        }
        let (before, after) = (untuned.value(metric), best.validation.value(metric));
        let on = if outcome.test.is_some() { " of the validation pairs" } else { "" };
        output::print(&format!("chosen by {}{on}: {before:.3} untuned, {after:.3} tuned", metric.word()))?;
        if outcome.test.is_none() {
            output::print(
                "the tuned step was chosen on these same pairs, so its figures lean high; a test split gives free ones",
            )?;
        }
        if metric.is_better(before, after) {
            tracing::warn!(
                "tuning made {} worse; a lower optim.lr, or more of the towers frozen, may help",
                metric.word()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_run_takes_no_time() {
        let shown = [0.4, 31.2, 99.0, 100.0, 5900.0, 7200.0].map(duration);
        assert_eq!(shown, ["0.4 s", "31 s", "99 s", "2 min", "98 min", "2.0 h"]);
    }
}
