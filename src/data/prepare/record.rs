//! What a prepared folder was made from, so that what does not fit any more is made anew, and nothing stale stays.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::options::Options;
use crate::data::table::shard_keys;
use crate::digest::{ContentHash, is_hex};
use crate::error::shown;
use crate::fs::{LOCK, holds_others, read_up_to, replace_file, replace_private, text_up_to};
use crate::json;

/// Changes with everything that changes what is written from the same data.
pub(super) const FORMAT: u32 = 2;

const FILE: &str = "prepared.json";
/// File of the salt, where it was drawn.
const SALT: &str = "salt";

/// prepared.json. Of images their names say what they were made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`FORMAT`] of who wrote it.
    format: u32,
    /// The data set.
    preset: String,
    /// Shorter side of images.
    size: Option<u32>,
    /// Rows of a shard.
    rows_of_shard: Option<usize>,
    /// Says whether a salt is the same, and not which.
    salt: String,
    /// Of each shard a digest of all that went into it.
    pub shards: BTreeMap<String, String>,
}

impl Record {
    /// The record of what `out` is to hold, with the shards that it holds already; and the salt.
    ///
    /// # Errors
    /// It holds another data set, or one with other numbers for patients, or nobody says what it holds.
    pub fn begin(out: &Path, preset: &str, options: &Options) -> Result<(Self, String)> {
        let before = Self::read(&out.join(FILE))?;
        if before.is_none() {
            for name in ["manifest.csv", "rows.csv", "summary.json"] {
                ensure!(
                    !out.join(name).exists(),
                    "holds {name} without {FILE}, so nobody knows what it was made from; name another --out, or \
                     remove it"
                );
            }
            ensure!(
                !holds_others(out, &[LOCK, "salt", ".salt.tmp", ".prepared.json.tmp"]),
                "holds files already, of which no {FILE} says that they are ours; name another --out"
            );
        }
        let before = before.unwrap_or_default();
        ensure!(
            before.preset.is_empty() || before.preset == preset,
            "holds what was made from {}; name another --out for {preset}",
            before.preset
        );
        let salt = salt(out, options, &before.salt)?;
        let record = Self {
            format: FORMAT,
            preset: preset.into(),
            size: options.size,
            rows_of_shard: options.shard,
            salt: proof(&salt),
            shards: before.shards,
        };
        ensure!(
            before.salt.is_empty() || before.salt == record.salt,
            "was made with another salt, and all numbers of patients would change; name the same --salt, or another \
             --out"
        );
        record.save(out)?;
        Ok((record, salt))
    }

    /// The one that is there. It may come from anybody, and what it names is removed.
    fn read(path: &Path) -> Result<Option<Self>> {
        if !path.try_exists().with_context(|| path.display().to_string())? {
            return Ok(None);
        }
        let bytes = read_up_to(path, json::MAX_BYTES)?;
        let hint = "remove the folder, or name another --out";
        let record: Self = json::parse(&bytes)
            .and_then(|value| Ok(serde_json::from_value(value)?))
            .with_context(|| format!("{}: is broken; {hint}", path.display()))?;
        for name in record.shards.keys() {
            ensure!(is_shard(name), "{}: {} is the name of no shard; {hint}", path.display(), shown(name));
        }
        Ok(Some(record))
    }

    /// Notes that a shard is about to be written, before it is: one of which a kill let nothing be noted would stay for
    /// ever, and one that is written anew is no longer what it was.
    ///
    /// # Errors
    /// The disk is full.
    pub fn begin_shard(&mut self, out: &Path, name: &str) -> Result<()> {
        self.shards.insert(name.to_string(), String::new());
        self.save(out)
    }

    /// Keys of the rows whose images are in the folder, alone or in a shard.
    pub fn keys(&self, out: &Path) -> HashSet<String> {
        // A shard that cannot be read holds nothing.
        let mut keys: HashSet<String> =
            self.shards.keys().filter_map(|name| shard_keys(&out.join(name)).ok()).flatten().collect();
        for file in inside(&out.join("images")).iter().flat_map(|folder| inside(folder)) {
            let name = file.file_name().and_then(|n| n.to_str()).filter(|name| is_ours(name));
            keys.extend(name.and_then(|name| name.split_once('-')).map(|(key, _)| key.to_string()));
        }
        keys
    }

    /// Writes it.
    ///
    /// # Errors
    /// The disk is full.
    pub fn save(&self, out: &Path) -> Result<()> {
        replace_file(&out.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Removes what an earlier call wrote and this one did not: manifests other than `manifest`, shards other than
    /// `shards`, images other than `images`, all by their paths below `out`. What has other names is not ours.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_stale(&mut self, out: &Path, manifest: &str, kept: &HashSet<String>) -> Result<()> {
        for name in ["manifest.csv", "rows.csv"].into_iter().filter(|name| *name != manifest) {
            remove(&out.join(name))?;
        }
        let stale: Vec<String> = self.shards.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        for name in stale {
            remove(&out.join(&name))?;
            remove(&out.join(format!("{name}.partial")))?;
            self.shards.remove(&name);
        }
        for folder in inside(&out.join("images")) {
            let Some(group) = folder.file_name().and_then(|n| n.to_str()).filter(|n| is_hex(n, 2)) else { continue };
            for file in inside(&folder) {
                let Some(name) = file.file_name().and_then(|n| n.to_str()) else { continue };
                if is_ours(name) && !kept.contains(&format!("images/{group}/{name}")) {
                    remove(&file)?;
                }
            }
            // Only an empty one goes.
            drop(fs::remove_dir(&folder));
        }
        drop(fs::remove_dir(out.join("images")));
        self.save(out)
    }
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| file.display().to_string()),
        _ => Ok(()),
    }
}

/// `train-000000.tar` in the folder itself.
pub(super) fn is_shard(name: &str) -> bool {
    let plain = !name.contains(['/', '\\', ':']) && !name.contains(char::is_control) && !name.starts_with('.');
    let stem = name.strip_suffix(".tar").and_then(|stem| stem.rsplit_once('-'));
    plain && stem.is_some_and(|(_, number)| number.len() >= 6 && number.bytes().all(|b| b.is_ascii_digit()))
}

/// `0123456789abcdef-0123456789abcdef.jpg`, also while it is being written.
fn is_ours(name: &str) -> bool {
    let name = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")).unwrap_or(name);
    let stem = name.strip_suffix(".jpg").or_else(|| name.strip_suffix(".png"));
    stem.and_then(|stem| stem.split_once('-')).is_some_and(|(key, made)| is_hex(key, 16) && is_hex(made, 16))
}

fn proof(salt: &str) -> String {
    let mut hash = ContentHash::default();
    hash.field("reportclip data prepare: salt");
    hash.field(salt);
    hash.hex()[..16].to_string()
}

/// The salt that is named, or that of the folder: drawn once, readable by its owner only, for whoever has it can try
/// out which number is which patient. `before` is the proof of the one that the folder was made with.
fn salt(out: &Path, options: &Options, before: &str) -> Result<String> {
    if let Some(salt) = &options.salt {
        ensure!(!salt.trim().is_empty(), "--salt is empty, so anybody could try out which number is which patient");
        return Ok(salt.clone());
    }
    let path = out.join(SALT);
    if path.is_file() {
        let salt = text_up_to(&path, 1 << 16)?.trim().to_string();
        ensure!(!salt.is_empty(), "{}: is empty; name --salt, or another --out", path.display());
        return Ok(salt);
    }
    ensure!(before.is_empty(), "was made with a --salt; name the same one, or another --out");
    // The standard library's hashers begin with numbers of the operating system.
    let draw = || RandomState::new().build_hasher().finish();
    let salt = format!("{:016x}{:016x}", draw(), draw());
    replace_private(&path, salt.as_bytes())?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(out: &Path) -> Result<(Record, String)> {
        let options = Options { size: None, keep_paths: false, shard: Some(2), salt: Some("x".into()) };
        Record::begin(out, "folder", &options)
    }

    /// Every name in it is removed when no row uses it.
    #[test]
    fn a_record_that_names_files_of_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (out, victim) = (dir.path().join("out"), dir.path().join("victim-000000.tar"));
        fs::create_dir_all(&out).unwrap();
        fs::write(&victim, "mine").unwrap();
        let absolute = victim.to_str().unwrap();
        for name in
            ["../victim-000000.tar", absolute, "../victim.txt", "notes.txt", "..", "", ".x-000000.tar", "a-1.tar"]
        {
            let record = Record { format: FORMAT, shards: [(name.into(), String::new())].into(), ..Record::default() };
            record.save(&out).unwrap();
            let error = format!("{:#}", begin(&out).unwrap_err());
            assert!(error.contains("is the name of no shard") && error.lines().count() == 1, "{name}: {error}");
            assert!(error.len() < 500 && victim.is_file(), "{name}: {error}");
        }
        let many = format!("{{\"shards\":[{}0]}}", "0,".repeat(5 << 20));
        fs::write(out.join(FILE), many).unwrap();
        assert!(format!("{:#}", begin(&out).unwrap_err()).contains("prepared.json: is broken; remove the folder"));
    }

    /// As a kill between a shard's rename and its digest in the record leaves it.
    #[test]
    fn a_shard_that_was_begun_is_known_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path();
        let (mut record, _) = begin(out).unwrap();
        record.shards.insert("all-000001.tar".into(), "what it held".into());
        ["all-000001.tar", "all-000002.tar"].into_iter().for_each(|name| record.begin_shard(out, name).unwrap());
        for name in ["all-000001.tar", "all-000002.tar", "all-000002.tar.partial", "mine-000000.tar"] {
            fs::write(out.join(name), "x").unwrap();
        }
        let (mut record, _) = begin(out).unwrap();
        assert!(record.shards.values().all(String::is_empty), "nobody knows what they hold");
        record.remove_stale(out, "rows.csv", &HashSet::from(["all-000001.tar".to_string()])).unwrap();
        assert!(out.join("all-000001.tar").is_file() && out.join("mine-000000.tar").is_file());
        assert!(!out.join("all-000002.tar").exists() && !out.join("all-000002.tar.partial").exists());
    }
}
