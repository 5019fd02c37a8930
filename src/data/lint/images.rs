//! Images: unreadable, tiny, blank, the same twice, with names in their pixels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::finding::{Finding, Histogram, Level};
use super::kind::FindingKind;
use crate::data::fingerprint::{FileDigest, PerceptualHash, digest, near_duplicates};
use crate::data::{ImageSource, Row, dicom, image};
use crate::error::one_line;

/// Smallest side that says something.
const TINY: u32 = 64;
/// Standard deviation of gray levels below which an image is blank.
const BLANK: f64 = 2.0;

/// What is known of an image that was opened.
struct Facts {
    width: u32,
    height: u32,
    deviation: f64,
    digest: FileDigest,
    hash: Option<PerceptualHash>,
    burned_in: bool,
}

/// Why an image cannot be read, as far as the advice differs.
#[derive(Clone, PartialEq)]
enum Unreadable {
    LfsPointer,
    /// DICOM of a transfer syntax that is not read, and its UID.
    Syntax(String),
    Other,
}

/// The images of some rows.
pub(super) struct InspectedImages {
    /// Row, and its image's facts or what is wrong with it.
    facts: Vec<(usize, Result<Facts, Unreadable>)>,
}

impl InspectedImages {
    /// Opens these images, each with the row that names it, or `most` of them.
    pub fn open(mut chosen: Vec<(usize, ImageSource)>, most: usize, progress: &(dyn Fn(usize, usize) + Sync)) -> Self {
        let all = chosen.len();
        if all > most {
            chosen = (0..most).map(|i| chosen[i * all / most].clone()).collect();
        }
        let done = AtomicUsize::new(0);
        let total = chosen.len();
        let facts = chosen.into_par_iter().map(|(row, image)| {
            let facts = inspect(&image);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            (row, facts)
        });
        Self { facts: facts.collect() }
    }

    pub fn count(&self) -> usize {
        self.facts.len()
    }

    fn good(&self) -> impl Iterator<Item = (usize, &Facts)> {
        self.facts.iter().filter_map(|(row, facts)| Some((*row, facts.as_ref().ok()?)))
    }

    /// Rows whose images are the same file content, each with the first that has it.
    pub fn same(&self) -> Vec<(usize, usize)> {
        let mut first: HashMap<FileDigest, usize> = HashMap::new();
        let known = |(row, facts): (usize, &Facts)| (*first.entry(facts.digest).or_insert(row), row);
        self.good().map(known).filter(|(a, b)| a != b).collect()
    }

    /// Rows whose images look alike and are not the same file.
    pub fn near(&self) -> Vec<(usize, usize)> {
        let good: Vec<(usize, &Facts)> = self.good().collect();
        let hashes: Vec<Option<PerceptualHash>> = good.iter().map(|(_, f)| f.hash).collect();
        let pairs = near_duplicates(&hashes).into_iter();
        pairs.filter(|&(a, b)| good[a].1.digest != good[b].1.digest).map(|(a, b)| (good[a].0, good[b].0)).collect()
    }

    pub fn findings(&self, rows: &[Row], findings: &mut Vec<Finding>) {
        let unreadable: Vec<usize> = self.facts.iter().filter(|(_, f)| f.is_err()).map(|(row, _)| *row).collect();
        let reasons = || self.facts.iter().filter_map(|(_, facts)| facts.as_ref().err());
        let pointers = reasons().filter(|reason| **reason == Unreadable::LfsPointer).count();
        let others = reasons().filter(|reason| **reason == Unreadable::Other).count();
        let uids = reasons().filter_map(|reason| match reason {
            Unreadable::Syntax(uid) => Some(&uid[..]),
            Unreadable::LfsPointer | Unreadable::Other => None,
        });
        let others =
            (others > 0).then(|| "see `reportclip embed --images FILE` for what is wrong with one".to_string());
        let pointers =
            (pointers > 0).then(|| format!("{pointers} are Git LFS pointers; run `git lfs pull` where they came from"));
        let hints: Vec<String> = pointers.into_iter().chain(dicom::unread_syntaxes(uids)).chain(others).collect();
        let hint = hints.join("; ");
        let mut add = |level, kind, found: Vec<usize>, message: String| {
            findings.extend(Finding::new(level, kind, rows, found, message));
        };
        add(Level::Error, FindingKind::UnreadableImage, unreadable, format!("images that cannot be read; {hint}"));
        let with =
            |wanted: &dyn Fn(&Facts) -> bool| self.good().filter(|(_, f)| wanted(f)).map(|(row, _)| row).collect();
        let blank = with(&|f| f.deviation < BLANK);
        add(Level::Warning, FindingKind::BlankImage, blank, "images of one shade: blank, or a failed export".into());
        let tiny = with(&|f| f.width.min(f.height) < TINY);
        add(
            Level::Warning,
            FindingKind::TinyImage,
            tiny,
            format!("images with a side below {TINY} pixels: thumbnails?"),
        );
        let burned = with(&|f| f.burned_in);
        let message = "DICOM files that say names or numbers stand in their pixels; do not publish what comes of them";
        add(Level::Warning, FindingKind::BurnedInAnnotation, burned, message.into());
        let same = self.same();
        let differing = same.iter().filter(|(a, b)| rows[*a].report() != rows[*b].report()).map(|(_, b)| *b).collect();
        let message = "files that hold the same image as an earlier row but have another report: each is the other's \
                       false negative; give them one file name";
        add(Level::Warning, FindingKind::SameImageOtherReport, differing, message.into());
        let patients = same.iter().filter(|(a, b)| rows[*a].patient_id() != rows[*b].patient_id());
        let message = "files that hold the same image as an earlier row of another patient: one of the two is wrong";
        add(Level::Warning, FindingKind::SameImageOtherPatient, patients.map(|(_, b)| *b).collect(), message.into());
    }

    pub fn histograms(&self, histograms: &mut Vec<Histogram>) {
        let edges = [64, 128, 224, 336, 512, 1024, 2048, 4096];
        let mut bars: Vec<(String, usize)> = edges.iter().map(|e| (format!("< {e}"), 0)).collect();
        bars.push(("≥ 4096".into(), 0));
        for (_, facts) in self.good() {
            let side = facts.width.min(facts.height);
            bars[edges.partition_point(|&e| e <= side)].1 += 1;
        }
        histograms.push(Histogram { name: "shorter side of images, pixels", bars });
    }
}

fn inspect(source: &ImageSource) -> Result<Facts, Unreadable> {
    let bytes = source.bytes().map_err(|_| Unreadable::Other)?;
    if image::is_lfs_pointer(&bytes) {
        return Err(Unreadable::LfsPointer);
    }
    facts(source, &bytes).map_err(|e| match dicom::unread_syntax(&one_line(&e)) {
        Some(uid) => Unreadable::Syntax(uid.to_string()),
        None => Unreadable::Other,
    })
}

fn facts(source: &ImageSource, bytes: &[u8]) -> anyhow::Result<Facts> {
    let picture = source.read_from(bytes)?;
    let count = picture.bytes.len().max(1) as f64;
    let (mut sum, mut squares) = (0u64, 0u64);
    for &b in &picture.bytes {
        (sum, squares) = (sum + u64::from(b), squares + u64::from(b) * u64::from(b));
    }
    let mean = sum as f64 / count;
    Ok(Facts {
        width: picture.width,
        height: picture.height,
        deviation: (squares as f64 / count - mean * mean).max(0.0).sqrt(),
        digest: digest(source, bytes),
        hash: PerceptualHash::of(&picture)?,
        burned_in: dicom::is_dicom(bytes) && dicom::burned_in(bytes)? == Some(true),
    })
}

/// A row's image as a small JPEG; `None` where it cannot be read.
pub(super) fn thumbnail(row: &Row) -> Option<Vec<u8>> {
    let picture = row.image().read().ok()?;
    image::thumbnail(&picture, 128).ok()
}
