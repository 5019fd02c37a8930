//! Trains and evaluates members, some at a time, and keeps account of it in the sweep's folder.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Error, Result, bail, ensure};
use candle_core::Device;
use serde_json::json;

use super::axis::{self, Axis, Setting};
use super::chart::chart;
use super::compare::{Difference, differences, differences_markdown};
use super::evaluation::{Evaluation, Judging};
use super::fingerprint::{Digests, Fingerprint};
use super::halving::{ROUNDS, Score, survivors};
use super::member::{Member, State, members_of};
use super::process;
use super::table::{SettingFigures, markdown, table};
use crate::config::{self, Config};
use crate::dist::Single;
use crate::error::{Problem, Problems, one_line};
use crate::fs::{FolderLock, check_writable, replace_file};
use crate::session::{PrecisionRequest, Products};
use crate::train;
use crate::train::stop::{self, Cause};

/// More are a slip of the keyboard, and would take all memory.
const MOST_MEMBERS: usize = 10_000;

/// What a sweep is to do.
#[derive(Clone, Debug)]
pub struct Request {
    /// The config that all members share.
    pub config: PathBuf,
    /// `key=value`, changed for all members.
    pub overrides: Vec<String>,
    /// Keys with the values to try, see [`Axis::parse`].
    pub grid: Vec<String>,
    /// Combinations beside those, see [`axis::setting`].
    pub also: Vec<String>,
    /// Seeds of each combination, counted up from the config's.
    pub seeds: u32,
    /// So many random combinations in place of all.
    pub random: Option<usize>,
    /// Go on with the best 1/N after each round.
    pub halving: Option<usize>,
    /// Members at a time.
    pub jobs: usize,
    /// Evaluate by zero-shot classification too.
    pub prompts: Option<PathBuf>,
    /// Split to evaluate on.
    pub split: Option<String>,
    /// Evaluate on the training pairs too.
    pub over_fitting: bool,
    /// Figures that are drawn; empty for the usual ones.
    pub figures: Vec<String>,
    /// Where all goes; `None` = runs/<config name>-sweep.
    pub folder: Option<PathBuf>,
}

/// What came of a sweep.
#[derive(Debug)]
pub struct Finished {
    /// Where it lies.
    pub folder: PathBuf,
    /// All members.
    pub members: Vec<Member>,
    /// Means by setting.
    pub table: Vec<SettingFigures>,
    /// Which settings differ by more than chance.
    pub differences: Vec<Difference>,
    /// Somebody asked to stop: not all is done.
    pub stopped: bool,
}

impl Finished {
    /// Members that have neither figures nor were pruned.
    pub fn failed(&self) -> usize {
        self.members.iter().filter(|m| matches!(m.state, State::Unfinished | State::Failed(_))).count()
    }
}

/// What all members have in common.
struct Sweep<'a> {
    request: &'a Request,
    /// Steps of a member.
    total_steps: u64,
    folder: PathBuf,
    evaluation: Evaluation,
}

/// Trains and evaluates all members, or goes on where that stopped. A member that fails is left out.
///
/// # Errors
/// [`Problems`] with the first combination that is wrong, or where members of the folder were made from something else;
/// the disk is full.
pub fn run(request: &Request) -> Result<Finished> {
    let axes = parsed("--grid", &request.grid, Axis::parse)?;
    let also = parsed("--also", &request.also, axis::setting)?;
    if let Some(key) = axis::twice(axes.iter().map(|axis| axis.key.as_str())) {
        return Err(wrong(format!("--grid: two name {key}; allowed is one, with all values: {key}=v1,v2")));
    }
    let config = config::load(&request.config, &request.overrides)?;
    if config.train.stop_after.is_some() {
        return Err(wrong("train.stop_after: is set, and a sweep trains members to their end; leave it away".into()));
    }
    let combinations = request.random.unwrap_or_else(|| axis::combinations(&axes));
    let wanted = combinations.saturating_add(also.len()).saturating_mul(request.seeds as usize);
    ensure!(wanted <= MOST_MEMBERS, "the sweep would have {wanted} members; allowed are {MOST_MEMBERS}");
    let settings = match request.random {
        Some(count) => axis::random(&axes, count, config.seed),
        None => axis::grid(&axes).map_err(|e| wrong(format!("--grid {}", one_line(&e))))?,
    };
    let mut members = members_of(settings.into_iter().chain(also).collect(), request.seeds, config.seed)?;
    // All that is wrong with any combination is told before the first is run.
    let configs = members.iter().map(|member| config_of(request, member)).collect::<Result<Vec<_>>>()?;
    if request.halving.is_some() {
        let metric = |c: &Config| c.train.best_metric.unwrap_or(c.loss.best_metric().0);
        let other = configs.iter().find(|c| metric(c) != metric(&config));
        ensure!(
            other.is_none(),
            "--halving compares members by one figure, and train.best_metric = \"auto\" takes {} for some and {} for \
             others; name one, for example --set train.best_metric=mean_recall",
            metric(&config).word(),
            other.map_or("another", |other| metric(other).word())
        );
    }
    let default = || Path::new("runs").join(format!("{}-sweep", config::run_name(&request.config)));
    let folder = request.folder.clone().unwrap_or_else(default);
    check_writable(&folder).context("sweep")?;
    // Data, tokenizer and model are opened once before the first member; the demo's phantoms are drawn then, once.
    let prepared = train::prepare(&config, &Single)?;
    ensure!(
        request.halving.is_none() || !prepared.val.is_empty(),
        "--halving compares members by their validations, and there are no validation pairs; name some with data.val"
    );
    let total_steps = train::plan(&config, &prepared, &Single).total_steps;
    let without_bf16 = without_bf16(&configs, &prepared.device);
    if let Some(line) = &without_bf16 {
        tracing::info!("{line}");
    }
    drop(prepared);
    let mut digests = Digests::default();
    let judging = Judging {
        split: request.split.as_deref(),
        prompts: request.prompts.as_deref(),
        over_fitting: request.over_fitting,
    };
    let evaluation = Evaluation::new(&config, judging, &mut digests)?;
    let fingerprints = configs.iter().map(|c| Fingerprint::of_training(c, &mut digests)).collect::<Result<Vec<_>>>()?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let _held = FolderLock::take(&folder).context("sweep")?;
    let sweep = Sweep { request, total_steps, folder, evaluation };
    sweep.begin(&members, &fingerprints)?;
    stop::listen()?;
    sweep.train_all(&mut members)?;
    if !stop::asked() {
        let trained = numbers(&members, Member::is_unfinished);
        sweep.each(&mut members, &trained, |member| {
            let judged = sweep.evaluation.judge(&sweep.run_folder(member), sweep.threads(), &sweep.log(member))?;
            member.state = State::Evaluated(judged.figures);
            member.by_patient = judged.by_patient;
            Ok(())
        })?;
    }
    let (table, differences) = (table(&members), differences(&members));
    sweep.save(&members, &table, &differences)?;
    let note = without_bf16.map_or(String::new(), |line| format!("\n{line}"));
    let text = [markdown(&table, &[]), differences_markdown(&differences, &[]), note].join("\n");
    replace_file(&sweep.folder.join("sweep.md"), text.trim_end().as_bytes())?;
    replace_file(&sweep.folder.join("sweep.svg"), chart(&table, &request.figures).as_bytes())?;
    Ok(Finished { folder: sweep.folder, members, table, differences, stopped: stop::asked() })
}

/// What the texts of an option say.
fn parsed<T>(option: &str, texts: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| parse(text).map_err(|e| wrong(format!("{option} {}", one_line(&e))))).collect()
}

/// An error of the arguments.
fn wrong(line: String) -> Error {
    Problems(vec![Problem(line)]).into()
}

/// `key=value` of a member, as all and as it alone has them.
fn overrides(request: &Request, member: &Member) -> Vec<String> {
    let own = member.setting.iter().map(|choice| format!("{}={}", choice.key, choice.value));
    request.overrides.iter().cloned().chain(own).chain([format!("seed={}", member.seed)]).collect()
}

fn config_of(request: &Request, member: &Member) -> Result<Config> {
    config::load(&request.config, &overrides(request, member))
}

/// Why members that ask for bf16 have f32, if any do: their own logs alone would say it, and their figures stand in the
/// table as bf16's.
fn without_bf16(configs: &[Config], device: &Device) -> Option<String> {
    let requests = configs.iter().map(|config| PrecisionRequest::from(&config.train));
    let all: Vec<_> = requests.map(|request| (request, Products::choose(request, device))).collect();
    let short: Vec<_> = all.iter().filter(|(request, products)| products.falls_short(*request)).collect();
    let (_, products) = short.first()?;
    Some(format!("{} of {} members: {}", short.len(), all.len(), products.reason))
}

/// The places of the members of which this is so.
fn numbers(members: &[Member], wanted: impl Fn(&Member) -> bool) -> Vec<usize> {
    (0..members.len()).filter(|&i| wanted(&members[i])).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sweep<'_> {
    fn run_folder(&self, member: &Member) -> PathBuf {
        self.folder.join(&member.name)
    }

    fn log(&self, member: &Member) -> PathBuf {
        self.folder.join(format!("{}.log", member.name))
    }

    /// Threads of one member.
    fn threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from) / self.request.jobs
    }

    /// Notes what each member is made from; refuses to go on with members that were made from
    /// something else, for their table would be told as if it were this one's.
    fn begin(&self, members: &[Member], fingerprints: &[Fingerprint]) -> Result<()> {
        let mut changes: Vec<String> = Vec::new();
        let notes: Vec<PathBuf> =
            members.iter().map(|m| self.folder.join(format!("{}.made-from.json", m.name))).collect();
        for ((member, fingerprint), note) in members.iter().zip(fingerprints).zip(&notes) {
            if !self.run_folder(member).join("config.toml").is_file() {
                continue;
            }
            let before = std::fs::read(note).ok().and_then(|bytes| serde_json::from_slice::<Fingerprint>(&bytes).ok());
            let own = before.map_or_else(
                || vec![format!("{} is of another version of this program", member.name)],
                |before| fingerprint.changes(&before),
            );
            own.into_iter().for_each(|change| {
                if !changes.contains(&change) {
                    changes.push(change);
                }
            });
        }
        if !changes.is_empty() {
            return Err(Problems(vec![Problem(format!(
                "{}: holds members of another sweep: {}; name another folder with --out, or remove this one",
                self.folder.display(),
                changes.join(", ")
            ))])
            .into());
        }
        for (note, fingerprint) in notes.iter().zip(fingerprints) {
            replace_file(note, &serde_json::to_vec_pretty(fingerprint)?)?;
        }
        Ok(())
    }

    fn train_all(&self, members: &mut [Member]) -> Result<()> {
        match self.request.halving {
            Some(eta) => self.halve(members, eta),
            None => {
                let all = numbers(members, |_| true);
                self.each(members, &all, |member| self.train(member, None))
            }
        }
    }

    /// Calls `work` on the members of these numbers, some at a time, and notes what goes wrong with each.
    fn each(
        &self,
        members: &mut [Member],
        numbers: &[usize],
        work: impl Fn(&mut Member) -> Result<()> + Sync,
    ) -> Result<()> {
        let (next, total) = (AtomicUsize::new(0), numbers.len());
        let shared = Mutex::new(members);
        let worker = || -> Result<()> {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(&number) = numbers.get(i) else { return Ok(()) };
                if stop::asked() {
                    return Ok(());
                }
                let mut member = lock(&shared)[number].clone();
                tracing::info!("member {} of {total}: {}", i + 1, member.name);
                if let Err(error) = work(&mut member)
                    && !stop::asked()
                {
                    let line = one_line(&error);
                    tracing::warn!("{}: {line}; the sweep goes on without it", member.name);
                    member.state = State::Failed(line);
                }
                let mut members = lock(&shared);
                members[number] = member;
                // Differences take a moment, and are told at the end.
                self.save(&members, &table(&members), &[])?;
            }
        };
        std::thread::scope(|scope| {
            let start = |_| std::thread::Builder::new().spawn_scoped(scope, worker);
            let threads: Vec<_> = (0..self.request.jobs).map(start).collect::<std::io::Result<_>>()?;
            threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a worker ended unexpectedly")))
        })
    }

    fn save(&self, members: &[Member], table: &[SettingFigures], differences: &[Difference]) -> Result<()> {
        let records: Vec<_> = members.iter().map(Member::record).collect();
        let value = json!({"config": self.request.config.display().to_string(), "grid": self.request.grid,
            "judged_on": self.evaluation.rows()[1..].to_vec(), "members": records, "table": table,
            "differences": differences});
        replace_file(&self.folder.join("sweep.json"), &serde_json::to_vec_pretty(&value)?)
    }

    /// Trains a member, to its end or up to step `stop_after`; goes on where it was stopped.
    fn train(&self, member: &Member, stop_after: Option<u64>) -> Result<()> {
        let run = self.run_folder(member);
        if run.join("done.json").is_file() {
            return Ok(());
        }
        let mut args = vec!["train".to_string(), self.request.config.to_string_lossy().into_owned(), "--json".into()];
        let stop = stop_after.map(|step| format!("train.stop_after={step}"));
        let overrides = overrides(self.request, member).into_iter().chain(stop);
        args.extend(overrides.flat_map(|set| ["--set".to_string(), set]));
        args.extend(["--out".into(), run.to_string_lossy().into_owned()]);
        if run.join("config.toml").is_file() {
            args.extend(["--resume".into(), "latest".into()]);
        }
        let outcome = process::run(&args, self.threads(), &self.log(member))?;
        let early = outcome["stopped_by"] == Cause::EarlyStopping.word();
        if early || outcome["steps"] == outcome["total_steps"] {
            return replace_file(&run.join("done.json"), outcome.to_string().as_bytes());
        }
        ensure!(stop_after.is_some(), "{}", outcome["stopped"].as_str().unwrap_or("stopped"));
        Ok(())
    }

    /// Rounds of ever more steps; after each but the last, the best 1 / eta go on, by their best validation so far,
    /// averaged over seeds.
    fn halve(&self, members: &mut [Member], eta: usize) -> Result<()> {
        let mut settings: Vec<Setting> = members.iter().map(|m| m.setting.clone()).collect();
        settings.dedup();
        for round in (0..ROUNDS).rev() {
            let step = (self.total_steps / (eta as u64).pow(round)).max(1);
            let alive = numbers(members, Member::is_unfinished);
            self.each(members, &alive, |member| self.train(member, (round > 0).then_some(step)))?;
            if round == 0 || stop::asked() {
                return Ok(());
            }
            let scores: Vec<Result<Score>> = settings.iter().map(|s| self.score(members, s)).collect();
            if scores.iter().all(Result::is_err) {
                return scores.into_iter().next().map_or(Ok(()), |score| score.map(drop));
            }
            let scores: Vec<Score> =
                scores.into_iter().map(|score| score.unwrap_or_else(|_| Score::mean(&[]))).collect();
            let kept: Vec<Setting> = survivors(&scores, eta).into_iter().map(|i| settings[i].clone()).collect();
            for member in members.iter_mut().filter(|m| m.is_unfinished() && !kept.contains(&m.setting)) {
                member.state = State::Pruned { step, total: self.total_steps };
            }
            tracing::info!(
                "step {step} of {}: {} of {} combinations go on",
                self.total_steps,
                kept.len(),
                settings.len()
            );
            settings = kept;
        }
        Ok(())
    }

    /// The mean score of those members of a setting that did not fail.
    fn score(&self, members: &[Member], setting: &Setting) -> Result<Score> {
        let of_setting = members.iter().filter(|m| m.is_unfinished() && m.setting == *setting);
        let scores = of_setting.map(|m| Score::of_run(&self.run_folder(m))).collect::<Result<Vec<_>>>()?;
        Ok(Score::mean(&scores))
    }
}
