//! SHA-256 of every file of a folder, in the form of `sha256sum`: `SHA256SUMS`, beside the files. Files of the hub's
//! cache are named by their own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;

use crate::fs::{is_sha256, read_up_to, sha256_of, whole_tree};

/// `<64 hex digits>  <name>`, a line a file; `sha256sum --check` reads it too.
const FILE: &str = "SHA256SUMS";
/// Longest list that is read.
const MAX_BYTES: u64 = 16 << 20;

/// Writes the list of all that is in `folder` now.
///
/// # Errors
/// Something cannot be read, or the list not be written.
pub fn write_checksums(folder: &Path) -> Result<()> {
    let names = names(folder)?;
    let lines = names.par_iter().map(|name| Ok(format!("{}  {name}\n", hash(&folder.join(name))?)));
    let text = lines.collect::<Result<Vec<String>>>()?.concat();
    let path = folder.join(FILE);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// What was found of a folder's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Files that are what they were.
    pub whole: Vec<String>,
    /// What is wrong with others, a line each.
    pub damaged: Vec<String>,
    /// Files of which nothing is known.
    pub unknown: Vec<String>,
}

/// Compares a folder's files with its list, or with their own names where they lie in the hub's cache.
///
/// # Errors
/// The folder cannot be read, or its list is none.
pub fn verify_checksums(folder: &Path) -> Result<Verification> {
    let names = names(folder)?;
    let listed = listed(folder)?.unwrap_or_default();
    let check = |name: &String| -> Result<Option<bool>> {
        let path = folder.join(name);
        let blob = || fs::canonicalize(&path).ok()?.file_name()?.to_str().filter(|n| is_sha256(n)).map(str::to_string);
        match listed.get(name).cloned().or_else(blob) {
            Some(wanted) => Ok(Some(hash(&path)? == wanted)),
            None => Ok(None),
        }
    };
    let found = names.par_iter().map(check).collect::<Result<Vec<_>>>()?;
    let mut all = Verification::default();
    for (name, found) in names.iter().zip(found) {
        match found {
            Some(true) => all.whole.push(name.clone()),
            Some(false) => all.damaged.push(format!("{name}: not what its SHA-256 says: damaged or changed")),
            None => all.unknown.push(name.clone()),
        }
    }
    let missing = listed.keys().filter(|name| !names.contains(name));
    all.damaged.extend(missing.map(|name| format!("{name}: is missing, or {FILE} is damaged")));
    Ok(all)
}

/// Refuses a folder whose files are not those that were written; whether there was a list to see that by. A file that is
/// not in the list is refused too: the list may have lost its end.
///
/// # Errors
/// The first file that differs, by its path.
pub fn check_checksums(folder: &Path) -> Result<bool> {
    if !folder.join(FILE).exists() {
        return Ok(false);
    }
    let found = verify_checksums(folder)?;
    if let Some(what) = found.damaged.first() {
        bail!("{}/{what}", folder.display());
    }
    if let Some(name) = found.unknown.first() {
        bail!("{}/{name}: is not in {FILE}: that is damaged, or the file was put there since", folder.display());
    }
    ensure!(!found.whole.is_empty(), "{}: lists no files: it is damaged", folder.join(FILE).display());
    Ok(true)
}

/// Files of a folder by their names in it, without the list.
fn names(folder: &Path) -> Result<Vec<String>> {
    let tree = whole_tree(folder).with_context(|| folder.display().to_string())?;
    let inside = tree.iter().filter(|path| path.is_file()).filter_map(|path| path.strip_prefix(folder).ok());
    let mut names: Vec<String> = inside.filter_map(|path| Some(path.to_str()?.replace('\\', "/"))).collect();
    names.retain(|name| name != FILE);
    names.sort();
    Ok(names)
}

/// Name → digits; `None` where there is no list.
fn listed(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let text = String::from_utf8(read_up_to(&path, MAX_BYTES)?).ok();
    let lines = text.as_deref().and_then(|text| text.strip_suffix('\n')).map(|text| text.split('\n'));
    let entry = |line: &str| {
        let (digits, name) = line.split_at_checked(64)?;
        Some((name.strip_prefix("  ")?.to_string(), is_sha256(digits).then(|| digits.to_string())?))
    };
    let list = lines.and_then(|lines| lines.map(entry).collect::<Option<BTreeMap<_, _>>>());
    list.map(Some).with_context(|| format!("{}: not a list of checksums: it is damaged", path.display()))
}

fn hash(path: &Path) -> Result<String> {
    sha256_of(path).with_context(|| path.display().to_string())
}
