//! The folder of a run, and how files and folders in it are replaced so that a kill at any moment leaves a whole one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// `runs/<name>`: config.toml, run.json, metrics.jsonl, timing.jsonl, checkpoints/, model/.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The folder for a fresh run: created, refused where there is a run already.
    ///
    /// # Errors
    /// It holds a run, or cannot be created.
    pub fn create(path: &Path) -> Result<Self> {
        Self::check_free(path)?;
        let folder = Self { path: path.to_path_buf() };
        fs::create_dir_all(folder.checkpoints()).with_context(|| format!("run folder {}", path.display()))?;
        Ok(folder)
    }

    /// Whether a fresh run may go there, looked at before long work begins.
    ///
    /// # Errors
    /// It is a file, or holds a run or checkpoints.
    pub fn check_free(path: &Path) -> Result<()> {
        ensure!(!path.is_file(), "run folder {}: is a file; name a folder with --out", path.display());
        let folder = Self { path: path.to_path_buf() };
        if folder.config_path().exists() || !folder.list_checkpoints().is_empty() {
            bail!(
                "run folder {}: holds a run already; continue it with --resume latest, or name another with --out",
                path.display()
            );
        }
        Ok(())
    }

    /// The folder of a run that was started before.
    ///
    /// # Errors
    /// There is no run.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self { path: path.to_path_buf() };
        ensure!(
            folder.config_path().is_file(),
            "run folder {}: holds no run to resume; start one without --resume",
            path.display()
        );
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
        self.path.join("config.toml")
    }

    /// What is kept of a validation to be looked at: of the untuned or of the best model.
    pub fn pictures(&self, tuned: bool) -> PathBuf {
        self.path.join(if tuned { "pictures-best.json" } else { "pictures-untuned.json" })
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The best model, in Hugging Face's layout.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    /// Whole checkpoints, by step.
    pub fn list_checkpoints(&self) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(self.checkpoints()).into_iter().flatten().flatten();
        let mut list: Vec<(u64, PathBuf)> = entries
            .filter_map(|e| {
                let step = e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
                Some((step, e.path()))
            })
            .collect();
        list.sort();
        list
    }

    /// Where the checkpoint of `step` goes.
    pub fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:08}"))
    }
}

/// Writes a file beside its place, syncs it and renames it there.
///
/// # Errors
/// It cannot be written; the old file is untouched then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, |temporary| Ok(fs::write(temporary, bytes)?))
}

/// [`replace_file`] for whoever writes to a path of its own.
///
/// # Errors
/// As there.
pub fn replace_with(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let temporary = beside(path, "tmp");
    let write = || -> Result<()> {
        fill(&temporary)?;
        File::open(&temporary)?.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(sync_parent(path)?)
    };
    write().with_context(|| format!("writing {}", path.display())).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Lets `fill` write a folder beside its place, syncs it and renames it there. An old folder at that place is moved
/// aside first and removed afterwards; [`recover_folder`] puts it back if a kill came in between.
///
/// # Errors
/// It cannot be written; the old folder is untouched then.
pub fn replace_folder(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    recover_folder(path);
    let (temporary, old) = (beside(path, "tmp"), beside(path, "old"));
    let write = || -> Result<()> {
        drop(fs::remove_dir_all(&temporary));
        fs::create_dir_all(&temporary)?;
        fill(&temporary)?;
        for entry in fs::read_dir(&temporary)? {
            File::open(entry?.path())?.sync_all()?;
        }
        File::open(&temporary)?.sync_all()?;
        if path.exists() {
            fs::rename(path, &old)?;
        }
        fs::rename(&temporary, path)?;
        sync_parent(path)?;
        drop(fs::remove_dir_all(&old));
        Ok(())
    };
    write().with_context(|| format!("writing {}", path.display())).inspect_err(|_| {
        drop(fs::remove_dir_all(&temporary));
        recover_folder(path);
    })
}

/// Puts back a folder that a kill caught between being moved aside and being replaced.
fn recover_folder(path: &Path) {
    let old = beside(path, "old");
    if old.exists() {
        if path.exists() {
            drop(fs::remove_dir_all(&old));
        } else {
            drop(fs::rename(&old, path));
        }
    }
}

/// `dir/name` → `dir/.name.<suffix>`: on the same file system, so that the rename is atomic.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().map_or_else(|| "x".into(), |n| n.to_string_lossy().into_owned());
    path.with_file_name(format!(".{name}.{suffix}"))
}

/// A rename is only safe on disk once its folder is.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_replacement_leaves_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        replace_folder(&path, |p| Ok(fs::write(p.join("a"), "1")?)).unwrap();
        replace_folder(&path, |_| bail!("no")).unwrap_err();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
        // As a kill between the two renames leaves it.
        fs::rename(&path, dir.path().join(".model.old")).unwrap();
        replace_folder(&path, |_| bail!("no")).unwrap_err();
        assert_eq!(fs::read(path.join("a")).unwrap(), b"1");
        replace_folder(&path, |p| Ok(fs::write(p.join("b"), "2")?)).unwrap();
        assert!(!path.join("a").exists() && path.join("b").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
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
