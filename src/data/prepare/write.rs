//! Entries to a manifest, and where that is asked for to reduced images or shards. What was written is whole and stays,
//! so the same command goes on where it was stopped.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Preset;
use super::entry::Entry;
use crate::data::image::{self, reduced};
use crate::data::table::{ShardSample, ShardWriter, shard_keys};
use crate::fs::replace_file;

/// Where and how it is written.
pub struct Job<'a> {
    /// Folder for everything.
    pub out: &'a Path,
    /// What is written.
    pub options: Options,
    /// Hears of images done and in all.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
    /// Asked whether to end early.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// What is written.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shorter side of the images that are written, pixels; `None` = the images stay where they are.
    pub size: Option<u32>,
    /// Rows of a WebDataset shard; `None` = no shards.
    pub shard: Option<usize>,
    /// What patients' and studies' numbers are hashed with; `None` = drawn once and kept in the folder.
    pub salt: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Summary {
    /// The data set.
    pub preset: String,
    /// Rows of the manifest.
    pub rows: usize,
    /// Distinct patients, studies.
    pub patients: usize,
    /// As above.
    pub studies: usize,
    /// Entries whose image is not there.
    pub missing_images: usize,
    /// Entries without a report.
    pub empty_reports: usize,
    /// Images that cannot be read, where they had to be.
    pub unreadable_images: usize,
    /// Shards written.
    pub shards: usize,
    /// SHA-256 of the manifest.
    pub fingerprint: String,
}

/// A row as it is written.
struct Prepared<'a> {
    entry: &'a Entry,
    /// Stands for the image in names.
    key: String,
    patient: String,
    study: String,
    image: String,
}

impl Job<'_> {
    /// Writes manifest.csv and summary.json, and images or shards.
    ///
    /// # Errors
    /// Nothing can be used; the disk is full. What was written before is whole; the same call goes on from there.
    pub fn run(&self, preset: &Preset, entries: &[Entry]) -> Result<Summary> {
        let out = self.out;
        let mut summary = Summary { preset: preset.name.into(), ..Summary::default() };
        fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        let salt = salt(out, &self.options)?;
        let there: Vec<bool> = entries.par_iter().map(|e| e.image.is_file()).collect();
        let mut rows: Vec<Prepared> = Vec::new();
        for (entry, there) in entries.iter().zip(there) {
            if entry.report.trim().is_empty() {
                summary.empty_reports += 1;
            } else if !there {
                summary.missing_images += 1;
            } else {
                rows.push(Prepared::new(entry, &salt)?);
            }
        }
        if rows.is_empty() {
            let first = entries.first().map_or(String::new(), |e| format!(", for example {}", e.image.display()));
            bail!(
                "{} entries, but {} images are not there and {} reports are empty{first}",
                entries.len(),
                summary.missing_images,
                summary.empty_reports
            );
        }
        let before = rows.len();
        if let Some(each) = self.options.shard {
            summary.shards = self.shards(&mut rows, each)?;
        } else if self.options.size.is_some() || !preset.public_names {
            self.copy_images(&mut rows)?;
        }
        rows.retain(|r| !r.image.is_empty());
        let manifest = manifest(&rows)?;
        let distinct = |key: fn(&Prepared) -> String| rows.iter().map(key).collect::<HashSet<_>>().len();
        summary.unreadable_images = before - rows.len();
        summary.rows = rows.len();
        summary.patients = distinct(|r| r.patient.clone());
        summary.studies = distinct(|r| r.study.clone());
        summary.fingerprint = hex(&Sha256::digest(&manifest));
        let name = if self.options.shard.is_some() { "rows.csv" } else { "manifest.csv" };
        replace_file(&out.join(name), &manifest)?;
        replace_file(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
        Ok(summary)
    }

    /// Writes images under names that say nothing; a row whose image cannot be read is left without one.
    fn copy_images(&self, rows: &mut [Prepared]) -> Result<()> {
        let (done, total) = (AtomicUsize::new(0), rows.len());
        let one = |row: &mut Prepared| -> Result<()> {
            ensure!(!(self.stop)(), STOPPED);
            let place =
                |ending: &str| PathBuf::from("images").join(&row.key[..2]).join(format!("{}.{ending}", row.key));
            let known = ["jpg", "png"].map(place).into_iter().find(|p| self.out.join(p).is_file());
            row.image = match known {
                Some(path) => path.to_string_lossy().into_owned(),
                None => match row.encoded(self.options.size) {
                    Ok((bytes, ending)) => {
                        let path = place(ending);
                        fs::create_dir_all(self.out.join(&path).parent().unwrap_or(self.out))?;
                        replace_file(&self.out.join(&path), &bytes)?;
                        path.to_string_lossy().into_owned()
                    }
                    Err(_) => String::new(),
                },
            };
            (self.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(())
        };
        rows.par_iter_mut().map(one).collect()
    }

    /// Writes shards of `each` rows, split by split, in an order that is random and always the same; says how many.
    fn shards(&self, rows: &mut [Prepared], each: usize) -> Result<usize> {
        let split = |r: &Prepared| r.entry.split.clone().unwrap_or_else(|| "all".into());
        rows.sort_by_cached_key(|r| (split(r), r.key.clone()));
        let (done, total) = (AtomicUsize::new(0), rows.len());
        let mut parts: Vec<(String, &mut [Prepared])> = Vec::new();
        for group in rows.chunk_by_mut(|a, b| a.entry.split == b.entry.split) {
            let name = split(&group[0]);
            for (i, part) in group.chunks_mut(each).enumerate() {
                parts.push((format!("{name}-{i:06}.tar"), part));
            }
        }
        let count = parts.len();
        let one = |(name, part): (String, &mut [Prepared])| -> Result<()> {
            let path = self.out.join(&name);
            if !path.is_file() {
                self.shard(&path, part)?;
            }
            (self.progress)(done.fetch_add(part.len(), Ordering::Relaxed) + part.len(), total);
            let held = shard_keys(&path)?;
            for row in part.iter_mut() {
                row.image = if held.contains(&row.key) { format!("{name}/{}", row.key) } else { String::new() };
            }
            Ok(())
        };
        parts.into_par_iter().map(one).collect::<Result<()>>()?;
        Ok(count)
    }

    /// Writes one shard. Rows whose image cannot be read are left out.
    fn shard(&self, path: &Path, rows: &[Prepared]) -> Result<()> {
        let mut shard = ShardWriter::create(path)?;
        for row in rows {
            ensure!(!(self.stop)(), STOPPED);
            if let Ok((image, ending)) = row.encoded(self.options.size) {
                shard.add(&ShardSample { key: &row.key, image: &image, ending, texts: &row.json() })?;
            }
        }
        shard.finish()
    }
}

const STOPPED: &str = "stopped; the same command goes on";

/// Drawn once a folder, readable by its owner only: whoever has it can try out which number is which patient.
fn salt(out: &Path, options: &Options) -> Result<String> {
    if let Some(salt) = &options.salt {
        return Ok(salt.clone());
    }
    let path = out.join("salt");
    if let Ok(salt) = fs::read_to_string(&path) {
        return Ok(salt.trim().to_string());
    }
    // The standard library's hashers begin with numbers of the operating system.
    let draw = || std::collections::hash_map::RandomState::new().build_hasher().finish();
    let salt = format!("{:016x}{:016x}", draw(), draw());
    replace_file(&path, salt.as_bytes())?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).with_context(|| path.display().to_string())?;
    }
    Ok(salt)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl<'a> Prepared<'a> {
    fn new(entry: &'a Entry, salt: &str) -> Result<Self> {
        let hashed = |kind: &str, text: &str| hex(&Sha256::digest(format!("{salt}\0{kind}\0{text}")))[..16].to_string();
        let number = |kind: &str, text: &Option<String>| text.as_ref().map_or(String::new(), |t| hashed(kind, t));
        let place = std::path::absolute(&entry.image).with_context(|| entry.image.display().to_string())?;
        Ok(Self {
            entry,
            key: hashed("image", &place.to_string_lossy()),
            patient: number("patient", &entry.patient),
            study: number("study", &entry.study),
            image: place.to_string_lossy().into_owned(),
        })
    }

    /// The image's bytes as they are written, and their ending.
    fn encoded(&self, size: Option<u32>) -> Result<(Vec<u8>, &'static str)> {
        let bytes = fs::read(&self.entry.image)?;
        // A DICOM file names its patient, so it is never copied as it is.
        if size.is_none() && bytes.starts_with(&[0xff, 0xd8]) {
            return Ok((bytes, "jpg"));
        }
        if size.is_none() && bytes.starts_with(b"\x89PNG") {
            return Ok((bytes, "png"));
        }
        let picture = image::decode(&bytes, 0)?;
        Ok((reduced(&picture, size)?, "jpg"))
    }
}

const COLUMNS: [&str; 7] = ["image", "report", "patient_id", "study_id", "view", "label", "split"];

impl Prepared<'_> {
    fn fields(&self) -> [&str; 7] {
        fn text(t: &Option<String>) -> &str {
            t.as_deref().unwrap_or_default()
        }
        let e = self.entry;
        [&self.image, &e.report, &self.patient, &self.study, text(&e.view), text(&e.label), text(&e.split)]
    }

    /// Of a sample in a shard; the image is a member of its own.
    fn json(&self) -> serde_json::Value {
        let filled = COLUMNS.iter().zip(self.fields()).skip(1).filter(|(_, text)| !text.is_empty());
        filled.map(|(name, text)| (name.to_string(), json!(text))).collect::<serde_json::Map<_, _>>().into()
    }
}

fn manifest(rows: &[Prepared]) -> Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    for row in rows {
        writer.write_record(row.fields())?;
    }
    writer.into_inner().map_err(|e| anyhow::anyhow!("{e}"))
}
