//! `reportclip train`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::{output, table};
use crate::config::{self, Config};
use crate::data::OnError;
use crate::device;
use crate::dist::{self, Collective, Single};
use crate::error::{Problem, Problems};
use crate::model::ClipConfig;
use crate::ops;
use crate::track::{Note, RunFolder};
use crate::train::{self, Outcome, Plan, Prepared, Resume, TrainStep};

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
    /// Continue a run: "latest" (of the run folder), a run folder or a checkpoint folder
    #[arg(long, value_name = "latest|PATH")]
    resume: Option<String>,
    /// Open and check everything, run one step, print the plan; make no run folder
    #[arg(long)]
    dry_run: bool,
    /// Run folder; default runs/<config name>
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, world: &Rc<dyn Collective>) -> Result<()> {
    let config = config::load(&args.config, &args.set)?;
    world.lost_after(Duration::from_secs(config.train.rank_timeout));
    device::share_cores(world.local().1, ops::online_cores())?;
    let (folder, resume) = match &args.resume {
        // The run folder is the first rank's alone.
        _ if !world.is_first() => (None, Resume::No),
        None => {
            // Better told now than after data and model were read.
            RunFolder::check_free(&fresh_path(&config, args))?;
            (None, Resume::No)
        }
        Some(from) => {
            let (folder, resume) = find_run(&config, args.out.as_deref(), from)?;
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
    prepared.notes.iter().for_each(Note::log);
    check_memory(&plan, world.local().1)?;
    if args.dry_run {
        return dry_run(&config, &prepared, &plan, &**world);
    }
    let folder = match folder {
        Some(folder) => {
            check_same_config(&config, &folder, &prepared, &plan)?;
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
    folder.map_or(Ok(()), |folder| report(&outcome, &folder, args.json))
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

fn find_run(config: &Config, out: Option<&Path>, from: &str) -> Result<(RunFolder, Resume)> {
    let path = match (from, out) {
        ("latest", Some(out)) => out.to_path_buf(),
        ("latest", None) if config.output_is_default => RunFolder::last_used(&config.output),
        ("latest", None) => config.output.clone(),
        (_, Some(_)) => anyhow::bail!("--resume {from} names its run folder; leave --out away"),
        (_, None) => std::path::absolute(from)?,
    };
    if from != "latest" && path.join("state.json").is_file() {
        let run = path.parent().and_then(Path::parent).ok_or_else(|| anyhow!("{from}: is not inside a run folder"))?;
        return Ok((RunFolder::open(run)?, Resume::From(Some(path))));
    }
    let run = RunFolder::open(&path)?;
    let last = run.list_checkpoints().pop().map(|(_, path)| path);
    if last.is_none() {
        tracing::warn!("{}: stopped before its first checkpoint; starting at step 0", path.display());
    }
    Ok((run, Resume::From(last)))
}

/// A resumed run must be the run that was started: only keys that do not change the weights of a step may differ.
fn check_same_config(config: &Config, folder: &RunFolder, prepared: &Prepared, plan: &Plan) -> Result<()> {
    const LENGTH: [&str; 3] = ["train.epochs", "train.max_steps", "train.max_samples"];
    let started = config::load(&folder.config_path(), &[])?;
    let before = train::plan(&started, prepared, &Single);
    let mut problems = Vec::new();
    for key in config::KEYS {
        let (was, is) = (started.value(key.name), config.value(key.name));
        if was == is
            || same_path(was, is)
            || key.may_differ_on_resume()
            || (LENGTH.contains(&key.name) && plan.continues(&before))
        {
            continue;
        }
        let show = |v: Option<&toml::Value>| v.map_or("not set".into(), ToString::to_string);
        let hint = if LENGTH.contains(&key.name) {
            "; another length would change every learning rate (to pause a run, use train.stop_after)"
        } else {
            ""
        };
        problems.push(Problem(format!(
            "cannot resume {}: {} was {} and is {} now{hint}",
            folder.path().display(),
            key.name,
            show(was),
            show(is)
        )));
    }
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems).into()) }
}

/// Two spellings of one file or folder that is there.
fn same_path(a: Option<&toml::Value>, b: Option<&toml::Value>) -> bool {
    let real = |v: Option<&toml::Value>| std::fs::canonicalize(v?.as_str()?).ok();
    real(a).is_some_and(|a| Some(a) == real(b))
}

fn dry_run(config: &Config, prepared: &Prepared, plan: &Plan, world: &dyn Collective) -> Result<()> {
    let chunk =
        |places: &Range<usize>| prepared.train.batch(&plan.sampler.rows(0, places.clone()), places.start as u64);
    let batches: Vec<_> = plan.chunks.iter().map(chunk).collect::<Result<_>>()?;
    for e in batches.iter().flat_map(|b| &b.errors) {
        let place = format!("{}: {}", e.place, e.reason);
        anyhow::ensure!(config.data.on_error == OnError::Skip, "{place}");
        tracing::warn!("{place}");
    }
    let batches: Vec<_> = batches.into_iter().filter(|b| b.pairs > 0).collect();
    let pairs = world.gather_numbers(&[batches.iter().map(|b| b.pairs as u32).sum()])?.0;
    ensure!(pairs.iter().sum::<u32>() >= 2, "fewer than 2 rows of the first step can be read");
    let eps = config.loss.label_smoothing.at(0, plan.smoothing_steps);
    let loss = prepared.supervision.loss(&config.loss, eps);
    let started = std::time::Instant::now();
    let step = TrainStep {
        supervision: Some(&prepared.supervision),
        products: train::products(config),
        checkpoint_activations: config.train.checkpoint_activations,
        frozen: Some(&prepared.frozen),
        ..TrainStep::new(world, &prepared.folder.config, &prepared.params, &loss)
    };
    let (_, step_loss) = step.gradients(&batches)?;
    let seconds = started.elapsed().as_secs_f64();
    let (all, trainable) = prepared.params.count();
    let c: &ClipConfig = &prepared.folder.config;
    let reports: Vec<&str> = prepared.train.rows.iter().map(|r| r.report()).collect();
    let truncated = prepared.train.tokenizer.count_truncated(reports.iter().copied())?;
    let lines = [
        format!(
            "model: {all} weights, {trainable} trained; images {0}×{0}, {1} tokens",
            c.vision.image_size(),
            c.text.context_length()
        ),
        format!(
            "data: {} training pairs, {} validation pairs; {truncated} training reports ({:.1} %) are longer than {} tokens",
            reports.len(),
            prepared.val.len(),
            100.0 * truncated as f64 / reports.len() as f64,
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
            "one step: loss {:.4} without smoothing (chance {:.4}), {seconds:.2} s without AdamW; {:.1} h in all at that speed",
            step_loss.loss_hard,
            step_loss.chance,
            seconds * plan.total_steps as f64 / 3600.0
        ),
        "dry run: no run folder was made".to_string(),
    ];
    output::print(&lines.join("\n"))
}

fn report(outcome: &Outcome, folder: &RunFolder, json: bool) -> Result<()> {
    if let Some(reason) = &outcome.stopped {
        tracing::warn!("{reason}");
    }
    if json {
        return output::print_json(&serde_json::json!({
            "run_folder": folder.path(), "model": folder.model(), "steps": outcome.steps,
            "total_steps": outcome.total_steps,
            "stopped": outcome.stopped, "seconds": outcome.seconds, "untuned": outcome.untuned,
            "best_step": outcome.best.as_ref().map(|b| b.0), "best": outcome.best.as_ref().map(|b| &b.1),
        }));
    }
    if let (Some(untuned), Some((step, best))) = (&outcome.untuned, &outcome.best) {
        let tuned = format!("tuned (step {step})");
        output::print(&table::retrieval(&[("untuned", untuned), (&tuned, best)]))?;
        output::print(
            "the tuned step was chosen on these same pairs, so its figures lean high; a test split gives free ones",
        )?;
        if best.mean_recall < untuned.mean_recall {
            tracing::warn!("tuning made retrieval worse; a lower optim.lr, or more of the towers frozen, may help");
        }
    }
    output::print(&format!("{} of {} steps in {:.1} s", outcome.steps, outcome.total_steps, outcome.seconds))?;
    output::print(&format!("model: {}", folder.model().display()))?;
    output::print(&format!("run: {}", folder.path().display()))?;
    output::print(&format!("page: {}", folder.path().join("report.html").display()))
}
