//! `reportclip sweep`: members are trained and judged by processes of this same program, so that one that fails, or is
//! ended by the system, ends alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{output, table};
use crate::config::{self, Config};
use crate::data::{Columns, Manifest};
use crate::dist::Single;
use crate::fs::replace_file;
use crate::sweep::{self, Axis, Figures, Member, Setting};
use crate::train::stop;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip sweep configs/demo.toml --grid loss.label_smoothing=0,0.05,0.1,0.2 --seeds 3
  reportclip sweep my.toml --grid optim.lr=1e-6..1e-3 --random 20 --halving 3
  reportclip sweep my.toml --grid freeze.image=none,6,all --prompts chexpert.toml --jobs 2 --out runs/freeze

Run the same command again to go on where it stopped: members that are done are skipped, those that were stopped are
resumed, those that failed are tried again.")]
pub(super) struct Args {
    /// Config file (TOML) that all members share
    config: PathBuf,
    /// A key with the values to try, key=v1,v2,… (several: every combination), or with --random also key=low..high
    #[arg(long, value_name = "KEY=VALUES", required = true)]
    grid: Vec<String>,
    /// Change a key of the config for all members
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seeds of each combination, counted up from the config's
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Try so many random combinations instead of all
    #[arg(long, value_name = "N")]
    random: Option<usize>,
    /// Successive halving: train all for a while, go on with the best 1/N, and so on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=16))]
    halving: Option<u32>,
    /// Members at a time; they share the machine's threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Prompt file: members are also judged by zero-shot classification
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Split that members are judged on; default test where there is one, else the validation split
    #[arg(long)]
    split: Option<String>,
    /// Folder of the sweep; default runs/<config name>-sweep
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// What all members have in common.
struct Sweep<'a> {
    args: &'a Args,
    config: Config,
    out: PathBuf,
    /// `--data` and what goes with it, for eval and zero-shot.
    data: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let axes = args.grid.iter().map(|text| Axis::parse(text)).collect::<Result<Vec<_>>>()?;
    let config = config::load(&args.config, &args.set)?;
    let settings = match args.random {
        Some(count) => sweep::random(&axes, count, config.seed),
        None => sweep::grid(&axes)?,
    };
    // All that is wrong with any combination is told before the first is run.
    for setting in &settings {
        config::load(&args.config, &overrides(args, setting))?;
    }
    // Data, tokenizer and model are opened once before the first member; the demo's phantoms are drawn then, once.
    drop(crate::train::prepare(&config, &Single)?);
    let stem = args.config.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned());
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(format!("{stem}-sweep")));
    let data = data_args(&config, args.split.as_deref())?;
    let mut members: Vec<Member> = settings
        .iter()
        .flat_map(|setting| {
            (0..u64::from(args.seeds)).map(|i| {
                let seed = config.seed + i;
                let name = sweep::name(setting, seed);
                Member { name, setting: setting.clone(), seed, figures: None, problem: None }
            })
        })
        .collect();
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    stop::listen()?;
    let sweep = Sweep { args, config, out, data };
    match args.halving {
        Some(eta) => sweep.halve(&mut members, eta as usize)?,
        None => {
            let all: Vec<usize> = (0..members.len()).collect();
            sweep.each(&mut members, &all, |member| sweep.train(member, None).map(drop))?;
        }
    }
    let trained: Vec<usize> = (0..members.len()).filter(|&i| members[i].problem.is_none()).collect();
    if !stop::asked() {
        sweep.each(&mut members, &trained, |member| {
            member.figures = Some(sweep.judge(member)?);
            Ok(())
        })?;
    }
    sweep.report(&members)
}

fn overrides(args: &Args, setting: &Setting) -> Vec<String> {
    args.set.iter().cloned().chain(setting.iter().map(|(key, value)| format!("{key}={value}"))).collect()
}

/// Which rows members are judged on, as arguments of `eval`.
fn data_args(config: &Config, split: Option<&str>) -> Result<Vec<String>> {
    let d = &config.data;
    let manifest = d.val.first().or(d.train.first()).context("data.train is missing")?;
    let opened = Manifest::open(manifest, &Columns::from(d), d.image_root.as_deref())?;
    let known: Vec<String> = opened.splits().iter().map(ToString::to_string).collect();
    let has = |name: &str| known.iter().any(|s| s == name);
    let split = match split {
        Some(name) => {
            ensure!(has(name), "--split {name}: the splits of {} are {}", manifest.display(), known.join(", "));
            Some(name.to_string())
        }
        None => ["test", d.val_split.as_str()].into_iter().find(|name| has(name)).map(str::to_string),
    };
    let mut args = vec!["--data".to_string(), manifest.to_string_lossy().into_owned()];
    args.extend(split.into_iter().flat_map(|split| ["--split".to_string(), split]));
    for (name, value) in [
        ("--image-column", &d.image_column),
        ("--report-column", &d.report_column),
        ("--patient-id-column", &d.patient_id_column),
        ("--study-id-column", &d.study_id_column),
        ("--split-column", &d.split_column),
        ("--label-column", &d.label_column),
    ] {
        args.extend([name.to_string(), value.clone()]);
    }
    if let Some(root) = &d.image_root {
        args.extend(["--image-root".into(), root.to_string_lossy().into_owned()]);
    }
    Ok(args)
}

impl Sweep<'_> {
    /// Calls `work` on the members of these numbers, `--jobs` at a time, and notes what goes wrong with each.
    fn each(
        &self,
        members: &mut [Member],
        numbers: &[usize],
        work: impl Fn(&mut Member) -> Result<()> + Sync,
    ) -> Result<()> {
        let (next, total) = (AtomicUsize::new(0), numbers.len());
        let shared = Mutex::new(members);
        let lock = || shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let worker = || -> Result<()> {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(&number) = numbers.get(i) else { return Ok(()) };
                if stop::asked() {
                    return Ok(());
                }
                let mut member = lock()[number].clone();
                tracing::info!("member {} of {total}: {}", i + 1, member.name);
                if let Err(error) = work(&mut member)
                    && !stop::asked()
                {
                    let line = crate::error::one_line(&error);
                    tracing::warn!("{}: {line}; the sweep goes on without it", member.name);
                    member.problem = Some(line);
                }
                let mut members = lock();
                members[number] = member;
                self.save(&members)?;
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.args.jobs).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a worker ended unexpectedly")))
        })
    }

    fn save(&self, members: &[Member]) -> Result<()> {
        let value = json!({"config": self.args.config, "grid": self.args.grid, "judged_on": self.data[1..].to_vec(),
            "members": members, "table": sweep::table(members)});
        replace_file(&self.out.join("sweep.json"), &serde_json::to_vec_pretty(&value)?)
    }

    /// Runs this program; its talk goes to `log`, its result comes back.
    fn program(&self, args: &[String], log: &Path) -> Result<Value> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| log.display().to_string())?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from) / self.args.jobs as usize;
        let output = Command::new(std::env::current_exe()?)
            .args(args)
            .env("RAYON_NUM_THREADS", threads.max(1).to_string())
            .stdin(Stdio::null())
            .stderr(file)
            .output()
            .context("starting a member")?;
        if !output.status.success() {
            let talk = std::fs::read_to_string(log).unwrap_or_default();
            let last = talk.lines().rev().find_map(|l| l.strip_prefix("error: "));
            bail!("{} (see {})", last.map_or_else(|| output.status.to_string(), str::to_string), log.display());
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} gave no JSON", args[0]))
    }

    /// Trains a member, to its end or up to step `stop_after`; goes on where it was stopped. Gives what `train --json`
    /// prints; `None` where it was done before.
    fn train(&self, member: &Member, stop_after: Option<u64>) -> Result<Option<Value>> {
        let run = self.out.join(&member.name);
        if run.join("done.json").is_file() {
            return Ok(None);
        }
        let mut args = vec!["train".to_string(), self.args.config.to_string_lossy().into_owned(), "--json".into()];
        let overrides = overrides(self.args, &member.setting).into_iter().chain([format!("seed={}", member.seed)]);
        args.extend(overrides.flat_map(|set| ["--set".to_string(), set]));
        if let Some(step) = stop_after {
            args.extend(["--set".into(), format!("train.stop_after={step}")]);
        }
        args.extend(["--out".into(), run.to_string_lossy().into_owned()]);
        if run.join("config.toml").is_file() {
            args.extend(["--resume".into(), "latest".into()]);
        }
        let outcome = self.program(&args, &self.out.join(format!("{}.log", member.name)))?;
        match outcome["steps"] == outcome["total_steps"] || is_early(&outcome) {
            true => replace_file(&run.join("done.json"), outcome.to_string().as_bytes())?,
            false if stop_after.is_some() => {}
            false => bail!("{}", outcome["stopped"].as_str().unwrap_or("stopped")),
        }
        Ok(Some(outcome))
    }

    /// Rounds of 1/eta², 1/eta and all of the steps; after each but the last, the best 1/eta go on, by the mean recall
    /// of their best validation, averaged over seeds.
    fn halve(&self, members: &mut [Member], eta: usize) -> Result<()> {
        let total = self.total_steps()?;
        let mut settings: Vec<Setting> = members.iter().map(|m| m.setting.clone()).collect();
        settings.dedup();
        for round in (0..3u32).rev() {
            let step = total / (eta as u64).pow(round);
            let scores = Mutex::new(vec![Vec::new(); settings.len()]);
            let alive: Vec<usize> = (0..members.len())
                .filter(|&i| members[i].problem.is_none() && settings.contains(&members[i].setting))
                .collect();
            self.each(members, &alive, |member| {
                self.train(member, (round > 0).then_some(step.max(1)))?;
                let state = self.best_recall(&member.name)?;
                let of_setting = settings.iter().position(|s| *s == member.setting);
                let mut scores = scores.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if let (Some(i), Some(score)) = (of_setting, state) {
                    scores[i].push(score);
                }
                Ok(())
            })?;
            if round == 0 || stop::asked() {
                break;
            }
            let scores = scores.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
            let means: Vec<Option<f64>> = scores.iter().map(|s| sweep::Mean::of(s).map(|m| m.mean)).collect();
            let kept = sweep::survivors(&means, eta);
            let kept: Vec<Setting> = kept.into_iter().map(|i| settings[i].clone()).collect();
            for member in members.iter_mut().filter(|m| m.problem.is_none() && !kept.contains(&m.setting)) {
                member.problem = Some(format!("pruned at step {step} of {total}"));
            }
            tracing::info!("step {step} of {total}: {} of {} combinations go on", kept.len(), settings.len());
            settings = kept;
        }
        Ok(())
    }

    fn total_steps(&self) -> Result<u64> {
        let prepared = crate::train::prepare(&self.config, &Single)?;
        Ok(crate::train::plan(&self.config, &prepared, &Single).total_steps)
    }

    /// Mean recall of the best validation so far, as the run folder tells.
    fn best_recall(&self, name: &str) -> Result<Option<f64>> {
        let text = std::fs::read_to_string(self.out.join(name).join("metrics.jsonl"))?;
        let evals = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let recalls = evals.filter(|v| v["kind"] == "eval" && v["step"] != 0);
        Ok(recalls.filter_map(|v| v["val"]["mean_recall"].as_f64()).max_by(f64::total_cmp))
    }

    /// Retrieval, and with prompts zero-shot figures, of a member's best model. Done once.
    fn judge(&self, member: &Member) -> Result<Figures> {
        let run = self.out.join(&member.name);
        let kept = run.join(if self.args.prompts.is_some() { "judged-prompts.json" } else { "judged.json" });
        if let Some(figures) = std::fs::read(&kept).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
            return Ok(figures);
        }
        let log = self.out.join(format!("{}.log", member.name));
        let command = |name: &str| -> Vec<String> {
            let model = run.join("model").to_string_lossy().into_owned();
            [name, "--json", "--bootstrap", "0", "--model", &model].map(str::to_string).to_vec()
        };
        let loss_batch = self.config.samples_per_step().to_string();
        let retrieval = [command("eval"), vec!["--loss-batch-size".into(), loss_batch], self.data.clone()].concat();
        let retrieval = self.program(&retrieval, &log)?;
        let mut figures = Figures::new();
        let mut put = |name: &str, value: Option<f64>| figures.extend(value.map(|v| (name.to_string(), v)));
        let recall = |d: &str| retrieval[d]["figures"]["recall@1"].as_f64();
        put("mean_recall", retrieval["mean_recall"].as_f64());
        put("recall@1", recall("image_to_text").zip(recall("text_to_image")).map(|(a, b)| (a + b) / 2.0));
        for name in ["ece", "ece_equal_mass", "mce", "brier", "nll"] {
            put(&format!("match_{name}"), retrieval["calibration"]["as_is"][name].as_f64());
            put(&format!("match_{name}_scaled"), retrieval["calibration"]["scaled"][name].as_f64());
        }
        put("match_temperature", retrieval["calibration"]["temperature"].as_f64());
        if let Some(prompts) = &self.args.prompts {
            let prompts = vec!["--prompts".to_string(), prompts.to_string_lossy().into_owned()];
            let classes = self.program(&[command("zero-shot"), prompts, self.data.clone()].concat(), &log)?;
            for figure in classes["figures"].as_array().into_iter().flatten() {
                put(&format!("class_{}", figure["name"].as_str().unwrap_or_default()), figure["value"].as_f64());
            }
        }
        replace_file(&kept, &serde_json::to_vec_pretty(&figures)?)?;
        Ok(figures)
    }

    fn report(&self, members: &[Member]) -> Result<()> {
        self.save(members)?;
        let rows = sweep::table(members);
        replace_file(&self.out.join("sweep.md"), table::sweep_markdown(&rows).as_bytes())?;
        if self.args.json {
            output::print_json(&json!({"sweep": self.out, "members": members, "table": rows}))?;
        } else {
            output::print(&table::sweep_markdown(&rows))?;
            output::print(&format!("sweep: {}", self.out.display()))?;
        }
        if stop::asked() {
            bail!("stopped, as asked; the same command goes on");
        }
        let failed = members.iter().filter(|m| m.figures.is_none() && !is_pruned(m)).count();
        ensure!(failed == 0, "{failed} of {} members failed; the same command tries them again", members.len());
        Ok(())
    }
}

fn is_pruned(member: &Member) -> bool {
    member.problem.as_ref().is_some_and(|p| p.starts_with("pruned"))
}

fn is_early(outcome: &Value) -> bool {
    outcome["stopped"].as_str().is_some_and(|s| s.starts_with("stopped early"))
}
