//! Entries to a manifest, and where that is asked for to reduced images or shards. What fits still what it was made
//! from stays, so the same command goes on where it was stopped; all else is made anew or removed.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;

use super::Preset;
use super::entry::Entry;
use super::options::Options;
use super::record::{FORMAT, Record};
use super::row::{Prepared, manifest};
use crate::data::table::{ShardSample, ShardWriter, shard_keys};
use crate::digest::{ContentHash, of_bytes};
use crate::error::Interrupted;
use crate::fs::{FolderLock, replace_file};

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

impl Job<'_> {
    /// Writes manifest.csv and summary.json, and images or shards.
    ///
    /// # Errors
    /// Nothing can be used; the disk is full. What was written before is whole; the same call goes on from there.
    pub fn run(&self, preset: &Preset, entries: &[Entry]) -> Result<Summary> {
        let out = self.out;
        let mut summary = Summary { preset: preset.name.into(), ..Summary::default() };
        let writes_images = self.options.writes_images(preset)?;
        fs::create_dir_all(out)?;
        // Another call would take what this one writes for stale.
        let _held = FolderLock::take(out)?;
        let (record, salt) = Record::begin(out, preset.name, &self.options)?;
        let record = Mutex::new(record);
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
            bail!(
                "{} entries, but {} images are not there and {} reports are empty; does the data set lie as it is \
                 downloaded?",
                entries.len(),
                summary.missing_images,
                summary.empty_reports
            );
        }
        let before = rows.len();
        if let Some(each) = self.options.shard {
            summary.shards = self.shards(&mut rows, each, &record)?;
        } else if writes_images {
            self.copy_images(&mut rows)?;
        }
        rows.retain(|r| !r.image.is_empty());
        ensure!(!rows.is_empty(), "none of the {before} images can be read");
        let manifest = manifest(&rows)?;
        let distinct = |key: fn(&Prepared) -> String| rows.iter().map(key).collect::<HashSet<_>>().len();
        summary.unreadable_images = before - rows.len();
        summary.rows = rows.len();
        summary.patients = distinct(|r| r.patient.clone());
        summary.studies = distinct(|r| r.study.clone());
        summary.fingerprint = of_bytes(&manifest);
        let name = if self.options.shard.is_some() { "rows.csv" } else { "manifest.csv" };
        replace_file(&out.join(name), &manifest)?;
        replace_file(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?)?;
        // Members of shards stand below the shard's name.
        let file = |image: &str| image.split_once(".tar/").map_or(image.to_string(), |(tar, _)| format!("{tar}.tar"));
        let kept = rows.iter().map(|r| file(&r.image)).collect();
        record.into_inner().unwrap_or_else(PoisonError::into_inner).remove_stale(out, name, &kept)?;
        Ok(summary)
    }

    /// Writes images under names that say nothing; a row whose image cannot be read is left without one.
    fn copy_images(&self, rows: &mut [Prepared]) -> Result<()> {
        let (done, total) = (AtomicUsize::new(0), rows.len());
        let one = |row: &mut Prepared| -> Result<()> {
            ensure!(!(self.stop)(), Interrupted(STOPPED.into()));
            row.image = self.copy_image(row)?.unwrap_or_default();
            (self.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(())
        };
        rows.par_iter_mut().map(one).collect()
    }

    /// Where the image is written, below the folder; `None` where it cannot be read.
    fn copy_image(&self, row: &Prepared) -> Result<Option<String>> {
        let size = self.options.size;
        let place = |source, ending: &str| {
            format!("images/{}/{}-{}.{ending}", &row.key[..2], row.key, row.made_from(source, size))
        };
        let source = row.source();
        let known = ["jpg", "png"].map(|ending| place(source, ending));
        if let Some(known) = known.into_iter().find(|p| self.out.join(p).is_file()) {
            return Ok(Some(known));
        }
        let Ok(image) = row.encoded(size) else { return Ok(None) };
        let name = place(image.source, image.ending);
        let path = self.out.join(&name);
        fs::create_dir_all(path.parent().unwrap_or(self.out))?;
        replace_file(&path, &image.bytes)?;
        Ok(Some(name))
    }

    /// Writes shards of `each` rows, split by split, in an order that is random and always the same; says how many.
    fn shards(&self, rows: &mut [Prepared], each: usize, record: &Mutex<Record>) -> Result<usize> {
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
            let before = lock(record).shards.get(&name).filter(|_| path.is_file()).cloned();
            if before.is_none_or(|before| before != self.content(part)) {
                let content = self.shard(&path, part)?;
                let mut record = lock(record);
                record.shards.insert(name.clone(), content);
                record.save(self.out)?;
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

    /// Digest of all that a shard of these rows is made from.
    fn content(&self, rows: &[Prepared]) -> String {
        let mut content = self.content_of_none();
        rows.iter().for_each(|row| row.add_to(&mut content, row.source()));
        content.hex()
    }

    fn content_of_none(&self) -> ContentHash {
        let mut content = ContentHash::default();
        content.field(format!("{FORMAT} {:?}", self.options.size));
        content
    }

    /// Writes one shard, and says what it was made from. Rows whose image cannot be read are left out.
    fn shard(&self, path: &Path, rows: &[Prepared]) -> Result<String> {
        let mut content = self.content_of_none();
        let mut shard = ShardWriter::create(path)?;
        for row in rows {
            ensure!(!(self.stop)(), Interrupted(STOPPED.into()));
            let Ok(image) = row.encoded(self.options.size) else {
                row.add_to(&mut content, row.source());
                continue;
            };
            row.add_to(&mut content, image.source);
            let texts = &row.json();
            shard.add(&ShardSample { key: &row.key, image: &image.bytes, ending: image.ending, texts })?;
        }
        shard.finish()?;
        Ok(content.hex())
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

const STOPPED: &str = "stopped; the same command goes on";
