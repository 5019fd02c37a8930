//! What a model's name means, and which names are allowed to become paths and addresses.

use std::path::Path;

use hf_hub::{Repo, RepoType};

use super::error::HubError;
use super::name::Source;

/// What the name of a data set begins with, in addresses as here.
pub(super) const DATASETS: &str = "datasets/";

/// hf-hub's name of a model or data set.
pub(super) fn repo_of(repo: &str, revision: &str) -> Repo {
    match repo.strip_prefix(DATASETS) {
        Some(name) => Repo::with_revision(name.into(), RepoType::Dataset, revision.into()),
        None => Repo::with_revision(repo.into(), RepoType::Model, revision.into()),
    }
}

impl Source {
    /// Reads a model's name: `./x`, `../x`, `/x` and every existing folder are a folder; anything else must be
    /// `org/name` or `org/name@revision` on the Hub. `~` is left to the shell.
    ///
    /// # Errors
    /// [`HubError::BadSource`] with what was seen, what is allowed and a hint.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let bad = |why: &str| Err(HubError::BadSource(text.into(), why.into()));
        if text.trim().is_empty() {
            return bad("it is empty");
        }
        if text.chars().any(char::is_control) {
            return bad("it holds a control character");
        }
        let path = Path::new(text);
        let says_folder = matches!(text, "." | "..") || text.starts_with("./") || text.starts_with("../");
        if says_folder || path.is_absolute() || path.is_dir() {
            return Ok(Self::Folder(path.into()));
        }
        if path.is_file() {
            return bad("this is a file; give the folder that holds it");
        }
        if text.starts_with('~') {
            return bad("\"~\" is not expanded here and no such folder exists; write the path out");
        }
        let (repo, revision) = text.split_once('@').unwrap_or((text, "main"));
        if let Some(why) = hub_fault(repo, revision) {
            let folder_like = repo.matches('/').count() > 1 || repo.contains('\\') || repo.ends_with('/');
            return bad(if folder_like { "no such folder exists here, and it is no Hub name" } else { why });
        }
        Ok(Self::Hub { repo: repo.into(), revision: revision.into() })
    }
}

/// Refuses a repository or revision that the Hub could not have; both become parts of paths in the cache.
pub(super) fn check_hub(repo: &str, revision: &str) -> Result<(), HubError> {
    match hub_fault(repo, revision) {
        None => Ok(()),
        Some(why) => Err(HubError::BadSource(format!("{repo}@{revision}"), why.into())),
    }
}

fn hub_fault(repo: &str, revision: &str) -> Option<&'static str> {
    let repo = repo.strip_prefix(DATASETS).unwrap_or(repo);
    let Some((org, name)) = repo.split_once('/') else {
        return Some("no such folder exists here, and a Hub name needs an organisation before a \"/\"");
    };
    // The Hub's own rules; "--" would also make two repositories share one cache folder.
    let plain = |part: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        edge(part.chars().next())
            && edge(part.chars().last())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && !part.contains("..")
            && !part.contains("--")
    };
    if !plain(org) || !plain(name) || repo.len() > 96 {
        return Some("a Hub name has letters, digits, \"-\", \"_\" and \".\" around one \"/\"");
    }
    if revision.is_empty() {
        return Some("the revision after \"@\" is empty");
    }
    let odd = |c: char| !c.is_ascii_graphic() || "\\:?*~^[@<>|\"".contains(c);
    if check_name(revision).is_err() || revision.contains("..") || revision.contains(odd) {
        return Some("no revision can be called that");
    }
    None
}

/// Refuses a file name that could leave the model's folder. Names come from outside too, for instance from a
/// `model.safetensors.index.json`.
pub(super) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("it is empty")
    } else if name.chars().any(char::is_control) {
        Err("it holds a control character")
    } else if name.contains('\\') {
        Err("it holds a backslash")
    } else if name.starts_with('/') || name.as_bytes().get(1) == Some(&b':') {
        Err("it is an absolute path")
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Err("it holds an empty, \".\" or \"..\" part")
    } else {
        Ok(())
    }
}
