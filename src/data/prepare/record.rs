//! What a prepared folder was made from, so that what does not fit any more is made anew, and nothing stale stays.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::options::Options;
use crate::digest::ContentHash;
use crate::fs::{replace_file, replace_private};

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
        let path = out.join(FILE);
        let before: Option<Self> =
            match fs::read(&path) {
                Ok(bytes) => Some(serde_json::from_slice(&bytes).with_context(|| {
                    format!("{}: is broken; remove the folder, or name another --out", path.display())
                })?),
                Err(_) => None,
            };
        if before.is_none() {
            for name in ["manifest.csv", "rows.csv", "summary.json"] {
                ensure!(
                    !out.join(name).exists(),
                    "holds {name} without {FILE}, so nobody knows what it was made from; name another --out, or \
                     remove it"
                );
            }
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

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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
        let salt = fs::read_to_string(&path).with_context(|| path.display().to_string())?.trim().to_string();
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
