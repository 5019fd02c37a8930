//! The folder of a run: where what is, and which of several is meant.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use crate::fs::{FolderLock, LOCK, holds_others, recover_folder};

const CONFIG: &str = "config.toml";
const CHECKPOINTS: &str = "checkpoints";

/// `runs/<name>`: config.toml, run.json, metrics.jsonl, timing.jsonl, checkpoints/, model/. Held by this process as
/// long as this lives: two that trained in one folder would mix their files.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    _lock: Arc<FolderLock>,
}

impl RunFolder {
    /// The folder for a fresh run: created, refused where there is a run already.
    ///
    /// # Errors
    /// It holds a run, another process works in it, or it cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        Self::check_free(path)?;
        fs::create_dir_all(path).with_context(|| format!("run folder {}", path.display()))?;
        let folder = Self::held(path)?;
        // Once more: another process may have begun and ended one meanwhile.
        Self::check_free(path)?;
        fs::create_dir_all(folder.checkpoints()).with_context(|| format!("run folder {}", path.display()))?;
        Ok(folder)
    }

    fn held(path: &Path) -> Result<Self> {
        let lock = FolderLock::take(path).context("run folder")?;
        Ok(Self { path: path.to_path_buf(), _lock: Arc::new(lock) })
    }

    /// Whether a fresh run may go there, looked at before long work begins.
    ///
    /// # Errors
    /// It is a file, or holds a run or checkpoints.
    pub fn check_free(path: &Path) -> Result<()> {
        ensure!(!path.is_file(), "run folder {}: is a file; name a folder with --out", path.display());
        if path.join(CONFIG).exists() || !list_checkpoints(&path.join(CHECKPOINTS)).is_empty() {
            bail!(
                "run folder {}: holds a run already; continue it with --resume latest, or name another with --out",
                path.display()
            );
        }
        // What a run that was killed at its start leaves; anything else is somebody's, and a run would write over it.
        ensure!(
            !holds_others(path, &[LOCK, CHECKPOINTS, ".config.toml.tmp"]),
            "run folder {}: holds files already, and nothing is overwritten; name another folder with --out",
            path.display()
        );
        Ok(())
    }

    /// The folder of a run that was started before.
    ///
    /// # Errors
    /// There is no run, or another process works in it.
    pub fn open(path: &Path) -> Result<Self> {
        ensure!(
            path.join(CONFIG).is_file(),
            "run folder {}: holds no run to resume; start one without --resume",
            path.display()
        );
        let folder = Self::held(path)?;
        recover_folder(&folder.model());
        for entry in fs::read_dir(folder.checkpoints()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".tmp") {
                // What a kill left of a checkpoint that was being written.
                drop(fs::remove_dir_all(entry.path()));
            } else if let Some(target) = name.strip_prefix('.').and_then(|n| n.strip_suffix(".old")) {
                recover_folder(&folder.checkpoints().join(target));
            }
        }
        Ok(folder)
    }

    /// The folder of the run that wrote this file as its resolved config.
    pub fn of_config(file: &Path) -> Option<PathBuf> {
        let folder = file.parent().filter(|_| file.file_name().is_some_and(|name| name == CONFIG))?;
        let is_run = folder.join(CHECKPOINTS).is_dir() && folder.join("run.json").is_file();
        std::path::absolute(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok().filter(|_| is_run)
    }

    /// `wanted`, or the first of `wanted-2`, `wanted-3`, … that holds no run.
    pub fn first_free(wanted: &Path) -> PathBuf {
        let numbered = |n: u32| match n {
            1 => wanted.to_path_buf(),
            n => PathBuf::from(format!("{}-{n}", wanted.display())),
        };
        (1..).map(numbered).find(|p| !p.exists()).unwrap_or_else(|| wanted.to_path_buf())
    }

    /// The last of `wanted`, `wanted-2`, … that holds a run; `wanted` where none does.
    pub fn last_used(wanted: &Path) -> PathBuf {
        let free = Self::first_free(wanted);
        let mut last = wanted.to_path_buf();
        for n in 2.. {
            let next = PathBuf::from(format!("{}-{n}", wanted.display()));
            if next == free || !next.exists() {
                break;
            }
            last = next;
        }
        last
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved config.
    pub fn config_path(&self) -> PathBuf {
        self.path.join(CONFIG)
    }

    /// What is kept of a validation to be looked at: of the untuned or of the best model.
    pub fn pictures(&self, tuned: bool) -> PathBuf {
        self.path.join(if tuned { "pictures-best.json" } else { "pictures-untuned.json" })
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// The best model, in Hugging Face's layout.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Whole checkpoints, by step: they are renamed into place with all that they hold, so what has no state is none.
    pub fn list_checkpoints(&self) -> Vec<(u64, PathBuf)> {
        let mut list = list_checkpoints(&self.checkpoints());
        list.retain(has_state);
        list
    }

    /// What lies as checkpoints beyond the last whole one: something took their state away.
    pub fn list_newer_without_state(&self) -> Vec<(u64, PathBuf)> {
        let list = list_checkpoints(&self.checkpoints());
        let whole = list.iter().rposition(has_state).map_or(0, |last| last + 1);
        list[whole..].to_vec()
    }

    /// Where the checkpoint of `step` goes.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:08}"))
    }
}

fn has_state((_, checkpoint): &(u64, PathBuf)) -> bool {
    checkpoint.join("state.json").is_file()
}

fn list_checkpoints(folder: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut list: Vec<(u64, PathBuf)> = entries
        .filter_map(|e| {
            let step = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, e.path()))
        })
        .collect();
    list.sort();
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_held_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let refused = |result: Result<RunFolder>| format!("{:#}", result.unwrap_err());
        let first = RunFolder::create(&path).unwrap();
        let copy = first.clone();
        assert!(refused(RunFolder::create(&path)).contains("another process is working in it"));
        fs::write(first.config_path(), "").unwrap();
        drop(first);
        assert!(refused(RunFolder::open(&path)).contains("another process is working in it"));
        drop(copy);
        assert!(RunFolder::open(&path).is_ok());
        assert!(refused(RunFolder::create(&path)).contains("holds a run already"));
    }

    #[test]
    fn numbered_folders() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("demo");
        assert_eq!(RunFolder::first_free(&wanted), wanted);
        fs::create_dir(&wanted).unwrap();
        let second = dir.path().join("demo-2");
        assert_eq!(RunFolder::first_free(&wanted), second);
        assert_eq!(RunFolder::last_used(&wanted), wanted);
        fs::create_dir(&second).unwrap();
        assert_eq!(RunFolder::last_used(&wanted), second);
    }
}
