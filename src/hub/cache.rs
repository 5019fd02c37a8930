//! One repository's folder in Python's cache:
//!
//! ```text
//! models--org--name/refs/main                    the commit that main was at
//! models--org--name/snapshots/<commit>/<file>    a link to a blob
//! models--org--name/blobs/<etag>                 the content; <etag>.incomplete while it arrives
//! models--org--name/.no_exist/<commit>/<file>    empty: the repository has no such file
//! .locks/models--org--name/<etag>.lock           held while the blob is written
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use hf_hub::{Cache, CacheRepo};

use super::source::repo_of;
use crate::digest::is_hex;
use crate::fs::text_up_to;

#[derive(Debug)]
pub(super) struct RepoCache {
    cache: CacheRepo,
    folder: PathBuf,
    locks: PathBuf,
    revision: String,
}

impl RepoCache {
    pub fn new(root: &Path, repo: &str, revision: &str) -> Self {
        let repo = repo_of(repo, revision);
        Self {
            folder: root.join(repo.folder_name()),
            locks: root.join(".locks").join(repo.folder_name()),
            revision: revision.into(),
            cache: Cache::new(root.into()).repo(repo),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commit that the revision stands for. hf-hub's own lookup wants a file in `refs` for a commit too;
    /// Python writes none.
    pub fn resolve(&self) -> Option<String> {
        if is_commit(&self.revision) {
            return Some(self.revision.clone());
        }
        let noted = text_up_to(&self.folder.join("refs").join(&self.revision), 1 << 10).ok()?;
        let noted = noted.trim();
        is_commit(noted).then(|| noted.to_owned())
    }

    pub fn file(&self, commit: &str, name: &str) -> Option<PathBuf> {
        // `is_file` follows the link: one whose blob was deleted is not in the cache.
        Some(self.cache.pointer_path(commit).join(name)).filter(|path| path.is_file())
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.cache.pointer_path(commit)
    }

    pub fn has_snapshot(&self, commit: &str) -> bool {
        self.cache.pointer_path(commit).is_dir()
    }

    pub fn known_missing(&self, commit: &str, name: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(name).is_file()
    }

    /// Notes that the repository lacks a file. Only saves a request, so a cache that cannot be written is fine.
    pub fn note_missing(&self, commit: &str, name: &str) {
        let path = self.folder.join(".no_exist").join(commit).join(name);
        let note = || {
            fs::create_dir_all(path.parent()?).ok()?;
            File::create(&path).ok()
        };
        if note().is_none() || self.note_ref(commit).is_err() {
            tracing::debug!("cannot note in the cache that {name} does not exist");
        }
    }

    pub fn note_ref(&self, commit: &str) -> io::Result<()> {
        if self.revision == commit { Ok(()) } else { self.cache.create_ref(commit) }
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.cache.blob_path(etag)
    }

    /// Where the blob grows. Python's name, so a download can be begun by one and finished by the other.
    pub fn part(&self, etag: &str) -> PathBuf {
        self.cache.blob_path(&format!("{etag}.incomplete"))
    }

    /// Waits until no other process (also Python's) writes this blob. Released when dropped or at the process's
    /// end. `None` on a file system without locks.
    pub fn lock(&self, etag: &str) -> io::Result<Option<File>> {
        fs::create_dir_all(&self.locks)?;
        let file = File::create(self.locks.join(format!("{etag}.lock")))?;
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => {
                tracing::info!("another process is downloading this file; waiting for it")
            }
            Err(fs::TryLockError::Error(_)) => return Ok(None),
        }
        file.lock()?;
        Ok(Some(file))
    }

    /// Makes a finished blob visible as a file of the commit; returns the file's path.
    pub fn publish(&self, etag: &str, commit: &str, name: &str) -> io::Result<PathBuf> {
        let path = self.cache.pointer_path(commit).join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        if !path.is_file() {
            if path.symlink_metadata().is_ok() {
                // A link whose blob was deleted.
                fs::remove_file(&path)?;
            }
            link(&self.blob(etag), etag, name.matches('/').count(), &path)?;
        }
        self.note_ref(commit)?;
        Ok(path)
    }
}

/// Links relatively, so that the cache can be copied to another machine.
#[cfg(unix)]
fn link(blob: &Path, etag: &str, depth: usize, path: &Path) -> io::Result<()> {
    let target = format!("{}blobs/{etag}", "../".repeat(depth + 2));
    // Some file systems (exFAT, some network shares) have no links.
    std::os::unix::fs::symlink(target, path).or_else(|_| fs::rename(blob, path))
}

/// Links need a privilege on Windows; Python and hf-hub then move the blob too.
#[cfg(not(unix))]
fn link(blob: &Path, _etag: &str, _depth: usize, path: &Path) -> io::Result<()> {
    fs::rename(blob, path)
}

/// Whether the text is a whole commit hash: 40 lower-case hex digits.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}
