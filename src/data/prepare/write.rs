//! Entries to a manifest, and where that is asked for to reduced images or shards. What fits still what it was made
//! from stays, so the same command goes on where it was stopped; all else is made anew or removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use rayon::prelude::*;
use serde::Serialize;

use super::Preset;
use super::entry::{Entry, Found};
use super::options::Options;
use super::record::{FORMAT, Record, is_shard};
use super::row::{Prepared, manifest};
use crate::data::table::{ShardSample, ShardWriter, shard_keys};
use crate::digest::{ContentHash, of_bytes};
use crate::error::Interrupted;
use crate::fs::{FolderLock, replace_file};

/// Where and how it is written.
pub struct Job<'a> {
    /// Where the data set lies, for messages about it.
    pub root: &'a Path,
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
    /// Distinct patients, studies that are named.
    pub patients: usize,
    /// As above.
    pub studies: usize,
    /// Entries whose image is not there.
    pub missing_images: usize,
    /// Entries without a report.
    pub empty_reports: usize,
    /// Images that cannot be read, where they had to be.
    pub unreadable_images: usize,
    /// Rows of the data set that became no entry, by what they are.
    pub left_out: BTreeMap<String, usize>,
    /// Shards written.
    pub shards: usize,
    /// SHA-256 of the manifest.
    pub fingerprint: String,
}

impl Job<'_> {
    /// Writes manifest.csv and summary.json, and images or shards.
    ///
    /// # Errors
    /// Nothing can be used; an image's file fails to be read, or is gone since an earlier call wrote it; the disk is
    /// full. What was written before is whole; the same call goes on from there.
    pub fn run(&self, preset: &Preset, found: &Found) -> Result<Summary> {
        let out = self.out;
        let left_out = found.left_out.iter().map(|(why, count)| (why.to_string(), *count)).collect();
        let mut summary = Summary { preset: preset.name.into(), left_out, ..Summary::default() };
        let writes_images = self.options.writes_images(preset)?;
        let volumes = found.entries.iter().filter(|entry| entry.is_volume).count();
        let root = || self.root.display().to_string();
        ensure!(
            volumes == 0 || self.options.keep_paths,
            "{}: {volumes} of {} images are volumes, which are not written under other names; --keep-paths leaves them \
             where they are, under the names that they have",
            root(),
            found.entries.len()
        );
        // As far as rows have a report and their image is there: others take no part.
        let told = |entry: &&Entry| !entry.report.trim().is_empty() && entry.image.is_file();
        let told: Vec<&Entry> = match self.options.shard {
            Some(_) => found.entries.par_iter().filter(told).collect(),
            None => Vec::new(),
        };
        let shared = told.len() - told.iter().map(|entry| &entry.image).collect::<HashSet<_>>().len();
        ensure!(
            shared == 0,
            "{}: {shared} rows share their image with another, as boxes do; shards hold each once: leave --webdataset \
             out",
            root()
        );
        let place = || out.display().to_string();
        fs::create_dir_all(out).with_context(place)?;
        // Another call would take what this one writes for stale.
        let _held = FolderLock::take(out)?;
        let (record, salt) = Record::begin(out, preset.name, &self.options).with_context(place)?;
        let mut rows = self.usable(&found.entries, &record, &salt, &mut summary).with_context(root)?;
        let record = Mutex::new(record);
        let before = rows.len();
        if let Some(each) = self.options.shard {
            summary.shards = self.shards(&mut rows, each, &record)?;
        } else if writes_images {
            self.copy_images(&mut rows)?;
        }
        rows.retain(|r| !r.image.is_empty());
        ensure!(
            !rows.is_empty(),
            "{}: none of the {before} images can be read; `reportclip embed --images FILE` says what is wrong with one",
            root()
        );
        let manifest = manifest(&rows)?;
        let distinct = |key: for<'r> fn(&'r Prepared) -> &'r str| {
            rows.iter().map(key).filter(|key| !key.is_empty()).collect::<HashSet<_>>().len()
        };
        summary.unreadable_images = before - rows.len();
        summary.rows = rows.len();
        summary.patients = distinct(|r| &r.patient);
        summary.studies = distinct(|r| &r.study);
        summary.fingerprint = of_bytes(&manifest);
        let name = if self.options.shard.is_some() { "rows.csv" } else { "manifest.csv" };
        replace_file(&out.join(name), &manifest).with_context(place)?;
        replace_file(&out.join("summary.json"), &serde_json::to_vec_pretty(&summary)?).with_context(place)?;
        // Members of shards stand below the shard's name.
        let file = |image: &str| image.split_once(".tar/").map_or(image.to_string(), |(tar, _)| format!("{tar}.tar"));
        let kept = rows.iter().map(|r| file(&r.image)).collect();
        record.into_inner().unwrap_or_else(PoisonError::into_inner).remove_stale(out, name, &kept)?;
        Ok(summary)
    }

    /// Entries that have an image and a report.
    fn usable<'e>(
        &self,
        entries: &'e [Entry],
        record: &Record,
        salt: &str,
        summary: &mut Summary,
    ) -> Result<Vec<Prepared<'e>>> {
        let there: Vec<bool> = entries.par_iter().map(|e| e.image.is_file() || e.is_volume).collect();
        let (mut rows, mut missing) = (Vec::new(), Vec::new());
        for (number, (entry, there)) in (1..).zip(entries.iter().zip(there)) {
            if entry.report.trim().is_empty() {
                summary.empty_reports += 1;
            } else if !there {
                missing.push(Prepared::new(number, entry, salt)?);
            } else {
                rows.push(Prepared::new(number, entry, salt)?);
            }
        }
        summary.missing_images = missing.len();
        if !missing.is_empty() {
            // Of a disk that is not there for a moment, nothing is thrown away.
            let written = record.keys(self.out);
            let lost = missing.iter().filter(|row| written.contains(&row.key)).count();
            ensure!(
                lost == 0,
                "{lost} images that an earlier call wrote here are no longer in the data set; is its disk there? Bring \
                 them back, or name another --out"
            );
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
        Ok(rows)
    }

    /// Writes images under names that say nothing, one that several rows share once; a row whose image cannot be
    /// decoded is left without one.
    fn copy_images(&self, rows: &mut [Prepared]) -> Result<()> {
        let mut first: HashMap<&str, usize> = HashMap::new();
        let of_first: Vec<usize> = (0..).zip(rows.iter()).map(|(i, row)| *first.entry(&row.key).or_insert(i)).collect();
        let (done, total) = (AtomicUsize::new(0), rows.len());
        let one = |(i, row): (usize, &Prepared)| -> Result<String> {
            ensure!(!(self.stop)(), Interrupted(STOPPED.into()));
            let image = if of_first[i] == i { self.copy_image(row)?.unwrap_or_default() } else { String::new() };
            (self.progress)(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            Ok(image)
        };
        let images: Vec<String> = rows.par_iter().enumerate().map(one).collect::<Result<_>>()?;
        rows.iter_mut().zip(&of_first).for_each(|(row, &first)| row.image.clone_from(&images[first]));
        Ok(())
    }

    /// Where the image is written, below the folder; `None` where it cannot be decoded.
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
        let encoded = row.encoded(size).with_context(|| self.root.display().to_string());
        let Some(image) = encoded? else { return Ok(None) };
        let name = place(image.source, image.ending);
        let path = self.out.join(&name);
        fs::create_dir_all(path.parent().unwrap_or(self.out)).with_context(|| self.out.display().to_string())?;
        replace_file(&path, &image.bytes).with_context(|| self.out.display().to_string())?;
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
                let name = format!("{name}-{i:06}.tar");
                ensure!(is_shard(&name), "a split's name is no name of a file; it begins shards' names");
                parts.push((name, part));
            }
        }
        let count = parts.len();
        let one = |(name, part): (String, &mut [Prepared])| -> Result<()> {
            let path = self.out.join(&name);
            let place = || path.display().to_string();
            let before = lock(record).shards.get(&name).filter(|_| path.is_file()).cloned();
            if before.is_none_or(|before| before != self.content(part)) {
                lock(record).begin_shard(self.out, &name).with_context(place)?;
                let content = self.shard(&path, part)?;
                let mut record = lock(record);
                record.shards.insert(name.clone(), content);
                record.save(self.out).with_context(place)?;
            }
            (self.progress)(done.fetch_add(part.len(), Ordering::Relaxed) + part.len(), total);
            let held = shard_keys(&path).with_context(place)?;
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

    /// Writes one shard, and says what it was made from. Rows whose image cannot be decoded are left out.
    fn shard(&self, path: &Path, rows: &[Prepared]) -> Result<String> {
        let mut content = self.content_of_none();
        let place = || path.display().to_string();
        let mut shard = ShardWriter::create(path).with_context(place)?;
        for row in rows {
            ensure!(!(self.stop)(), Interrupted(STOPPED.into()));
            let encoded = row.encoded(self.options.size).with_context(|| self.root.display().to_string());
            let Some(image) = encoded? else {
                row.add_to(&mut content, row.source());
                continue;
            };
            row.add_to(&mut content, image.source);
            let texts = &row.json();
            shard
                .add(&ShardSample { key: &row.key, image: &image.bytes, ending: image.ending, texts })
                .with_context(place)?;
        }
        shard.finish().with_context(place)?;
        Ok(content.hex())
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

const STOPPED: &str = "stopped; the same command goes on";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::data::image::{Picture, png};

    const NOW: fn() -> bool = || false;

    fn entries(root: &Path, count: u8) -> Vec<Entry> {
        let entry = |i: u8| {
            let image: PathBuf = root.join(format!("Miller_{i}.png"));
            let bytes = (0..64u8).map(|at| at.wrapping_mul(i + 2)).collect();
            fs::write(&image, png(&Picture { width: 8, height: 8, channels: 1, bytes }).unwrap()).unwrap();
            Entry { image, report: format!("number {i}"), ..Entry::default() }
        };
        (0..count).map(entry).collect()
    }

    fn run(out: &Path, entries: &[Entry], shard: Option<usize>, stop: &(dyn Fn() -> bool + Sync)) -> Result<Summary> {
        let options = Options { size: None, keep_paths: false, shard, salt: Some("x".into()) };
        let job = Job { root: Path::new("data"), out, options, progress: &|_, _| {}, stop };
        job.run(&Preset::find("folder").unwrap(), &entries.to_vec().into())
    }

    fn files(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let all = crate::fs::whole_tree(out).unwrap().into_iter().filter(|p| p.is_file());
        let mut files: Vec<_> = all.map(|p| (p.clone(), fs::read(p).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn rows_that_share_an_image_that_is_missing_do_not_keep_shards_from_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut all = entries(dir.path(), 3);
        let gone = Entry { image: dir.path().join("gone.png"), report: "x".into(), ..Entry::default() };
        all.extend([gone.clone(), gone]);
        let summary = run(&dir.path().join("out"), &all, Some(2), &NOW).unwrap();
        assert_eq!((summary.rows, summary.missing_images), (3, 2));
        all.push(all[0].clone());
        let told = run(&dir.path().join("shared"), &all, Some(2), &NOW).unwrap_err().to_string();
        assert!(told.starts_with("data: 1 rows share their image"), "{told}");
    }

    /// A disk that is gone, or fails, is no reason to throw away what was made of it.
    #[test]
    fn images_that_are_gone_for_a_moment_take_nothing_with_them() {
        for shard in [None, Some(2)] {
            let dir = tempfile::tempdir().unwrap();
            let (out, entries) = (dir.path().join("out"), entries(dir.path(), 5));
            run(&out, &entries, shard, &NOW).unwrap();
            let before = files(&out);
            let away = dir.path().join("away");
            fs::rename(&entries[1].image, &away).unwrap();
            let error = format!("{:#}", run(&out, &entries, shard, &NOW).unwrap_err());
            assert!(error.starts_with("data: 1 images that an earlier call wrote here"), "{error}");
            assert!(files(&out) == before, "{shard:?}");
            fs::rename(&away, &entries[1].image).unwrap();
            run(&out, &entries, shard, &NOW).unwrap();
            assert!(files(&out) == before, "{shard:?}");
            // What was never there is only counted.
            let never = Entry { image: dir.path().join("never.png"), report: "x".into(), ..Entry::default() };
            let summary = run(&out, &[entries, vec![never]].concat(), shard, &NOW).unwrap();
            assert_eq!((summary.rows, summary.missing_images), (5, 1));
        }
    }

    /// The file goes between the look at it and the reading; a folder in its place fails as a broken disk does.
    #[test]
    fn an_image_that_fails_to_be_read_ends_the_call_and_one_that_is_broken_is_left_out() {
        for shard in [None, Some(1)] {
            let dir = tempfile::tempdir().unwrap();
            let (out, entries) = (dir.path().join("out"), entries(dir.path(), 3));
            let image = &entries[2].image;
            let fail = || {
                drop(fs::remove_file(image));
                drop(fs::create_dir(image));
                false
            };
            let error = format!("{:#}", run(&out, &entries, shard, &fail).unwrap_err());
            assert!(error.starts_with("data: image 3 of the data set, in its order: cannot be read"), "{error}");
            assert!(!error.contains("Miller") && error.lines().count() == 1, "{error}");
            assert!(!out.join("summary.json").exists());
            fs::remove_dir(image).unwrap();
            fs::write(image, "broken").unwrap();
            let summary = run(&out, &entries, shard, &NOW).unwrap();
            assert_eq!((summary.rows, summary.unreadable_images), (2, 1));
        }
    }

    #[test]
    fn a_split_that_leads_elsewhere_begins_no_shard() {
        let dir = tempfile::tempdir().unwrap();
        let mut entries = entries(dir.path(), 1);
        entries[0].split = Some("../up".into());
        let error = run(&dir.path().join("out"), &entries, Some(2), &NOW).unwrap_err().to_string();
        assert!(error.contains("a split's name is no name of a file"), "{error}");
        assert!(!dir.path().join("up-000000.tar").exists());
    }

    /// With other sizes afterwards: rows of a shard that nobody knows would be read twice.
    #[test]
    fn a_shard_that_was_stopped_is_written_anew_or_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (out, entries) = (dir.path().join("out"), entries(dir.path(), 6));
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= 3;
        run(&out, &entries, Some(1), &stop).unwrap_err();
        let text = fs::read_to_string(out.join("prepared.json")).unwrap();
        assert!(text.contains(".tar\": \"\""), "begun and not finished: {text}");
        run(&out, &entries, Some(3), &NOW).unwrap();
        let tars = files(&out).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "tar"));
        assert_eq!(tars.count(), 2);
    }
}
