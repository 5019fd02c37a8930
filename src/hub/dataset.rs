//! Data sets of the Hub: which files of a kind there are, and the files.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ask::{Download, Meta};
use super::source::{DATASETS, check_name};
use super::{HubError, HubSettings, ModelFiles, Place, Source, Wanted};

/// Most files that are looked at.
const MAX_FILES: usize = 1 << 20;
/// Longest answer that lists files.
const MAX_ANSWER: u64 = 64 << 20;

/// A data set's files, fetched on demand into the cache that Python's `datasets` uses too.
#[derive(Debug)]
pub struct DatasetFiles(ModelFiles);

#[derive(Deserialize)]
struct Info {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl DatasetFiles {
    /// Opens `org/name[@revision]` with the settings of the environment. Makes no request.
    ///
    /// # Errors
    /// [`HubError::BadSource`] when no data set could be called that.
    pub fn open(name: &str) -> Result<Self, HubError> {
        Self::open_with(name, &HubSettings::from_env())
    }

    /// Opens it with explicit settings.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(name: &str, settings: &HubSettings) -> Result<Self, HubError> {
        let (repo, revision) = name.split_once('@').unwrap_or((name, "main"));
        let source = Source::Hub { repo: format!("{DATASETS}{repo}"), revision: revision.into() };
        Ok(Self(ModelFiles::open_with(&source, settings)?))
    }

    /// Paths of all its files that end in `.{ending}`, in the order of their names; fetched where they are not in the
    /// cache. Without a network, those of the cache.
    ///
    /// # Errors
    /// There are none, and every error of a download.
    pub fn files(&self, ending: &str) -> Result<Vec<PathBuf>, HubError> {
        let ending = format!(".{ending}");
        let mut names = self.names()?;
        names.retain(|name| name.ends_with(&ending) && check_name(name).is_ok());
        names.sort();
        if names.is_empty() {
            let wanted = Wanted { file: format!("*{ending}"), source: self.0.source().clone() };
            return Err(HubError::EntryNotFound(Box::new(wanted)));
        }
        names.iter().map(|name| self.0.get(name)).collect()
    }

    fn names(&self) -> Result<Vec<String>, HubError> {
        let (Place::Hub(hub), Source::Hub { repo, revision }) = (&self.0.place, self.0.source()) else {
            return Ok(Vec::new());
        };
        let wanted = Wanted { file: "the list of its files".into(), source: self.0.source().clone() };
        let Some(http) = &hub.http else {
            let commit = hub.commit().filter(|commit| hub.cache.has_snapshot(commit));
            let commit = commit.ok_or_else(|| HubError::Offline(Box::new(wanted), hub.cache.folder().into()))?;
            let snapshot = hub.cache.folder().join("snapshots").join(commit);
            let mut names = Vec::new();
            list(&snapshot, &snapshot, &mut names);
            return Ok(names);
        };
        let at = hub.commit().unwrap_or(revision);
        let url = format!("{}/api/{repo}/revision/{}", http.endpoint, crate::http::encode(at, false));
        let ask = Download { http, cache: &hub.cache, wanted: &wanted };
        let (url, reply) = ask.follow(url, 0, &mut Meta::default(), false)?;
        let odd = |what: &str| ask.odd(&url, what);
        let body = reply.ok_or_else(|| odd("no answer"))?.body;
        let info: Info = serde_json::from_reader(std::io::Read::take(body, MAX_ANSWER))
            .map_err(|_| odd("an answer that does not list files"))?;
        if !super::cache::is_commit(&info.sha) || info.siblings.len() > MAX_FILES {
            return Err(odd("an answer that does not list files"));
        }
        // All files shall come from the commit that was listed; it is noted so that they are found without a network.
        let _ = hub.cache.note_ref(&info.sha);
        let _ = hub.commit.set(info.sha);
        Ok(info.siblings.into_iter().map(|s| s.rfilename).collect())
    }
}

fn list(root: &Path, folder: &Path, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            list(root, &path, names);
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.to_string_lossy().replace('\\', "/"));
        }
    }
}
