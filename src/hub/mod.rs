//! A model's name → local files.
//!
//! Owns: what a name means ([`Source`]), the Hugging Face cache folder, downloads into it and the errors they
//! give ([`HubError`]). It does not look inside the files, choose which files a model needs, or write anything
//! to the Hub.
//!
//! The cache has Python's layout, so what `transformers` fetched is found here and the other way round. It is
//! always asked first:
//! * a 40-hex commit never changes, so its files are never fetched again;
//! * a branch or tag is looked up once, when it is first fetched, and then stays at the commit noted in the
//!   cache (as hf-hub's `get` does). To follow a branch that moved, name the new commit, or delete
//!   `refs/<branch>` in the repository's cache folder;
//! * every file of one [`ModelFiles`] comes from the same commit, also when a branch moves meanwhile;
//! * that a repository lacks an optional file is noted too (`.no_exist`), so a second run makes no request.

mod ask;
mod cache;
mod dataset;
mod digest;
mod download;
mod error;
mod http;
mod name;
mod settings;
mod source;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub use dataset::DatasetFiles;
pub use error::{HubError, Wanted};
pub use name::Source;
pub use settings::HubSettings;

use cache::RepoCache;
use http::Http;

/// A model's files, local or fetched on demand.
#[derive(Debug)]
pub struct ModelFiles {
    source: Source,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Hub(Box<HubRepo>),
}

#[derive(Debug)]
struct HubRepo {
    cache: RepoCache,
    /// `None` when offline: there is nothing to make a request with.
    http: Option<Http>,
    /// The commit that every file comes from, once known.
    commit: OnceLock<String>,
}

impl ModelFiles {
    /// Opens a model with the settings of the environment. Makes no request.
    ///
    /// # Errors
    /// [`HubError::BadFolder`] when a folder is missing or unreadable, [`HubError::BadSource`] when a repository
    /// or revision could not exist.
    pub fn open(source: &Source) -> Result<Self, HubError> {
        Self::open_with(source, &HubSettings::from_env())
    }

    /// Opens a model with explicit settings. Makes no request.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open_with(source: &Source, settings: &HubSettings) -> Result<Self, HubError> {
        let place = match source {
            Source::Folder(folder) => {
                fs::read_dir(folder).map_err(|why| HubError::BadFolder(folder.clone(), why.to_string()))?;
                Place::Folder(folder.clone())
            }
            Source::Hub { repo, revision } => {
                source::check_hub(repo, revision)?;
                let http = if settings.offline { None } else { Some(Http::new(settings, repo, revision)?) };
                let cache = RepoCache::new(&settings.cache, repo, revision);
                Place::Hub(Box::new(HubRepo { cache, http, commit: OnceLock::new() }))
            }
        };
        Ok(Self { source: source.clone(), place })
    }

    /// The path of a file that must exist; fetched when it is not in the cache.
    ///
    /// `name` may hold `/` but must stay inside the model. The path may be a symbolic link.
    ///
    /// # Errors
    /// [`HubError::BadName`] for a name that leaves the model, [`HubError::NoFile`] or
    /// [`HubError::EntryNotFound`] when there is no such file, [`HubError::Offline`], and every error of a
    /// download.
    pub fn get(&self, name: &str) -> Result<PathBuf, HubError> {
        source::check_name(name).map_err(|why| HubError::BadName(name.into(), Box::new(self.source.clone()), why))?;
        let wanted = Wanted { file: name.into(), source: self.source.clone() };
        match &self.place {
            Place::Folder(folder) => in_folder(folder, name, wanted),
            Place::Hub(hub) => hub.get(name, wanted),
        }
    }

    /// The path of a file that may be missing: `None` when the folder or the repository has no such file.
    ///
    /// Offline, a file that is not in the cache counts as missing as long as the revision itself is cached: a
    /// cache cannot tell "never fetched" from "does not exist".
    ///
    /// # Errors
    /// As [`ModelFiles::get`], less the missing file.
    pub fn find(&self, name: &str) -> Result<Option<PathBuf>, HubError> {
        match (self.get(name), &self.place) {
            (Ok(path), _) => Ok(Some(path)),
            (Err(HubError::NoFile(_) | HubError::EntryNotFound(..)), _) => Ok(None),
            (Err(HubError::Offline(..)), Place::Hub(hub)) if hub.has_snapshot() => {
                tracing::debug!("{name} of {} is not in the cache; offline, so taken as missing", self.source);
                Ok(None)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Where the files come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The commit of a Hub repository (40 hex digits, the snapshot folder's name) that the files come from.
    /// `None` for a folder, and for a branch that was never fetched.
    pub fn commit(&self) -> Option<String> {
        match &self.place {
            Place::Folder(_) => None,
            Place::Hub(hub) => hub.commit().map(str::to_owned),
        }
    }
}

impl ModelFiles {
    /// The folder that holds the files that are here already: the model's own, or the snapshot in the cache.
    pub fn folder(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Folder(folder) => Some(folder.clone()),
            Place::Hub(hub) => hub.commit().map(|commit| hub.cache.snapshot(commit)).filter(|folder| folder.is_dir()),
        }
    }
}

impl HubRepo {
    fn commit(&self) -> Option<&str> {
        if self.commit.get().is_none()
            && let Some(commit) = self.cache.resolve()
        {
            // Another thread may have been first; its commit then holds for this one too.
            let _ = self.commit.set(commit);
        }
        self.commit.get().map(String::as_str)
    }

    fn has_snapshot(&self) -> bool {
        self.commit().is_some_and(|commit| self.cache.has_snapshot(commit))
    }

    fn get(&self, name: &str, wanted: Wanted) -> Result<PathBuf, HubError> {
        let commit = self.commit();
        if let Some(commit) = commit {
            if let Some(path) = self.cache.file(commit, name) {
                return Ok(path);
            }
            if self.cache.known_missing(commit, name) {
                return Err(HubError::EntryNotFound(Box::new(wanted)));
            }
        }
        let Some(http) = &self.http else {
            return Err(HubError::Offline(Box::new(wanted), self.cache.folder().into()));
        };
        let got = download::download(http, &self.cache, &wanted, commit)?;
        let _ = self.commit.set(got.commit);
        Ok(got.path)
    }
}

fn in_folder(folder: &Path, name: &str, wanted: Wanted) -> Result<PathBuf, HubError> {
    let path = folder.join(name);
    match fs::metadata(&path) {
        Ok(data) if data.is_file() => Ok(path),
        Ok(_) => Err(HubError::Disk(Box::new(wanted), path, "not a file".into())),
        // A parent that is a file is as missing as no parent.
        Err(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(HubError::NoFile(Box::new(wanted)))
        }
        Err(why) => Err(HubError::Disk(Box::new(wanted), path, why.to_string())),
    }
}
