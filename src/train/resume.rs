//! Going on with a run: which one is meant, and whether it is the same run still.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow};

use super::data_fingerprint::DataFingerprint;
use super::plan::{Plan, plan};
use super::prepare::Prepared;
use crate::config::{self, Config};
use crate::dist::Single;
use crate::error::{Problem, Problems};
use crate::track::RunFolder;

/// Where to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// At step 0, in a fresh run folder.
    No,
    /// At this checkpoint; `None` where the run was stopped before its first one.
    From(Option<PathBuf>),
}

/// The run folder and the checkpoint that `--resume from` means, with `--out out` and a config from `file`: a run's own
/// config means that run.
///
/// # Errors
/// There is none.
pub fn find_run(config: &Config, file: &Path, out: Option<&Path>, from: &str) -> Result<(RunFolder, Resume)> {
    let own = RunFolder::of_config(file);
    let path = match (from, out) {
        ("latest", Some(out)) => out.to_path_buf(),
        ("latest", None) if own.is_some() => own.unwrap_or_default(),
        ("latest", None) if config.output_is_default => RunFolder::last_used(&config.output),
        ("latest", None) => config.output.clone(),
        (_, Some(_)) => return Err(wrong(format!("--resume {from} names its run folder; leave --out away"))),
        (_, None) => std::path::absolute(from)?,
    };
    if from != "latest" && !["config.toml", "state.json"].iter().any(|file| path.join(file).is_file()) {
        return Err(wrong(format!(
            "--resume {from}: is neither the folder of a run nor of a checkpoint; name one, or leave it away for the \
             latest of the run folder"
        )));
    }
    if from != "latest" && path.join("state.json").is_file() {
        let run = path.parent().and_then(Path::parent).ok_or_else(|| anyhow!("{from}: is not inside a run folder"))?;
        return Ok((RunFolder::open(run)?, Resume::From(Some(path))));
    }
    let run = RunFolder::open(&path)?;
    for (_, passed) in run.list_newer_without_state() {
        tracing::warn!("{}: has no state.json, so it is no whole checkpoint and is passed over", passed.display());
    }
    let last = run.list_checkpoints().pop().map(|(_, path)| path);
    if last.is_none() {
        tracing::warn!("{}: stopped before its first checkpoint; starting at step 0", path.display());
    }
    Ok((run, Resume::From(last)))
}

/// An error of the arguments.
fn wrong(line: String) -> Error {
    Problems(vec![Problem(line)]).into()
}

/// Keys that say where something lies which is known by its content ([`super::data_fingerprint`]): it may have moved.
/// So may `loss.teacher`, where the run noted what it holds.
const PLACES: [&str; 5] = ["data.train", "data.val", "data.image_root", "loss.prompts", "model.tokenizer"];

/// A resumed run must be the run that was started: only keys that do not change the weights of a step may differ. Says
/// which of those do, as `key = value (was value)`.
///
/// # Errors
/// [`Problems`] with every other key that differs.
pub fn check_same_config(config: &Config, folder: &RunFolder, prepared: &Prepared, now: &Plan) -> Result<Vec<String>> {
    const LENGTH: [&str; 3] = ["train.epochs", "train.max_steps", "train.max_samples"];
    let now_at = |key: &&str| match config.value(key) {
        Some(value) => Some(format!("{key}={value}")),
        // The folder may be gone; any other one does, since places are not compared.
        None => (*key == "data.image_root").then(|| format!("{key}=.")),
    };
    let teacher = DataFingerprint::knows_teacher(folder.path()).then_some("loss.teacher");
    let places: Vec<&str> = PLACES.into_iter().chain(teacher).collect();
    let set: Vec<String> = places.iter().filter_map(now_at).collect();
    let started = config::load_to_resume(&folder.config_path(), &set)?;
    let before = plan(&started, prepared, &Single);
    let show = |v: Option<&toml::Value>| v.map_or("not set".into(), ToString::to_string);
    let (mut problems, mut changed) = (Vec::new(), Vec::new());
    for key in config::KEYS {
        let (was, is) = (started.value(key.name), config.value(key.name));
        if was == is
            || same_path(was, is)
            // Also one that is no longer named.
            || places.contains(&key.name)
            // Of this part of the run alone.
            || key.name == "train.stop_after"
            // What was drawn is known by its content, too; beside a data.train from elsewhere the key is left out.
            || key.name == "data.phantom"
            || (LENGTH.contains(&key.name) && now.continues(&before))
        {
            continue;
        }
        if key.may_differ_on_resume() {
            changed.push(format!("{} = {} (was {})", key.name, show(is), show(was)));
            continue;
        }
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
    if problems.is_empty() { Ok(changed) } else { Err(Problems(problems).into()) }
}

/// Two spellings of one file or folder that is there.
fn same_path(a: Option<&toml::Value>, b: Option<&toml::Value>) -> bool {
    let real = |v: Option<&toml::Value>| std::fs::canonicalize(v?.as_str()?).ok();
    real(a).is_some_and(|a| Some(a) == real(b))
}
