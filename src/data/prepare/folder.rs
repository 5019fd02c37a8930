//! Folders of images with a text of the same name beside each (a.png, a.txt), or one text for all images of a folder.
//! The first folder below the root is the patient, where there is one; the folder that holds the image is the study.
//!
//! Volumes are images: a.nii.gz with a.txt, and a folder of one DICOM series, whose text stands beside it under its
//! name, or is the one text in it or beside it. Its study is the folder that holds it, as in patient/study/series;
//! right below the patient it is a study of its own. Several loops in a folder are a row each.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::entry::{Entry, Found, MAX_REPORT};
use crate::data::volume::{Scan, VolumePolicy, is_volume};
use crate::fs::unnamed_up_to;

const IMAGES: [&str; 6] = ["png", "jpg", "jpeg", "dcm", "dicom", "ima"];
const VOLUMES: [&str; 4] = [".nii", ".nii.gz", ".npy", ".npz"];
/// Deepest folder that is looked into: a link to above would go on for ever.
const DEEPEST: usize = 12;

pub(super) fn read(root: &Path) -> Result<Found> {
    ensure!(root.is_dir(), "{}: is a file; name the folder that holds images and texts", root.display());
    let mut walk = Walk { root, found: Found::default() };
    walk.folder(root, &[], 0)?;
    let mut found = walk.found;
    if shares_report(&found) {
        found.notes.push(
            "some studies have several volumes, each a row with the same report; --bag-by study_id makes one row of all"
                .into(),
        );
    }
    let left_out = || found.left_out.iter().map(|(what, count)| format!("; {count} were left out {what}"));
    ensure!(
        !found.entries.is_empty(),
        "{}: holds no image with a .txt of its name, or one .txt in its folder{}",
        root.display(),
        left_out().collect::<String>()
    );
    Ok(found)
}

/// Whether two volumes of a study have one report: as rows of their own, each would count as wrong for the other.
fn shares_report(found: &Found) -> bool {
    let mut seen = HashSet::new();
    let volumes = found.entries.iter().filter(|entry| entry.is_volume);
    volumes.map(|entry| (&entry.patient, &entry.study, &entry.report)).any(|one| !seen.insert(one))
}

struct Walk<'a> {
    root: &'a Path,
    found: Found,
}

impl Walk<'_> {
    /// `above`: the texts beside the folder.
    fn folder(&mut self, folder: &Path, above: &[PathBuf], depth: usize) -> Result<()> {
        let place = || format!("{}: a folder in it", self.root.display());
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(place)? {
            paths.push(entry.with_context(place)?.path());
        }
        paths.sort();
        let texts: Vec<PathBuf> = paths.iter().filter(|path| has_ending(path, &["txt"])).cloned().collect();
        // Files of a series often have no ending.
        let may_be_dicom = |path: &PathBuf| path.extension().is_none() || has_ending(path, &["dcm", "dicom", "ima"]);
        let has_slices = paths.iter().any(|path| may_be_dicom(path) && path.is_file());
        let is_named = |path: &Path| has_name_of_volume(path) && path.is_file();
        if has_slices && !paths.iter().any(|path| has_ending(path, &["png", "jpg", "jpeg"])) && is_volume(folder) {
            let report = || text_of(folder, &texts).or_else(|| text_of(folder, above));
            // Several loops are a volume each; slices of several series are nothing that one report is of.
            let loops = || paths.iter().filter(|path| may_be_dicom(path) && is_volume(path));
            if Scan::of(folder, &VolumePolicy::default()).is_ok() {
                self.add(folder, report(), true)?;
            } else if loops().next().is_some() {
                for path in loops() {
                    self.add(path, text_of(path, &texts).or_else(report), true)?;
                }
            } else {
                self.found.leave_out("as a folder of DICOM slices that are no one series");
            }
            for _ in paths.iter().filter(|path| is_named(path)) {
                self.found.leave_out("as a volume beside DICOM slices, of which it may be a copy");
            }
        } else {
            for image in &paths {
                let is_image = has_ending(image, &IMAGES);
                if is_image || has_name_of_volume(image) {
                    self.add(image, text_of(image, &texts), !is_image || is_volume(image))?;
                }
            }
        }
        for inner in paths.iter().filter(|path| path.is_dir() && depth < DEEPEST) {
            self.folder(inner, &texts, depth + 1)?;
        }
        Ok(())
    }

    /// A row, where there is a text.
    fn add(&mut self, image: &Path, report: Option<PathBuf>, is_volume: bool) -> Result<()> {
        let Some(report) = report else {
            self.found.leave_out("without a text of its name, nor one text in its folder");
            return Ok(());
        };
        // Names of folders and files may name patients.
        let number = self.found.entries.len() + 1;
        let place = || format!("{}: the text of image {number} in the order of names", self.root.display());
        let text = unnamed_up_to(&report, MAX_REPORT).with_context(place)?;
        let report = String::from_utf8(text)
            .with_context(|| format!("{} is not UTF-8; convert it with `iconv -t UTF-8`", place()))?;
        let inside = image.parent().and_then(|folder| folder.strip_prefix(self.root).ok()).unwrap_or(Path::new(""));
        // Of patient/study/series the study is the second; where it is the series itself, that.
        let study = if image.is_dir() && inside.components().count() == 1 { image } else { inside };
        let study = study.strip_prefix(self.root).unwrap_or(study);
        let name = |path: &Path| Some(path.to_string_lossy().into_owned()).filter(|n| !n.is_empty());
        let patient = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
        let own = || name(Path::new(&stem(image)));
        self.found.entries.push(Entry {
            image: image.to_path_buf(),
            report: report.trim().to_string(),
            patient: patient.or_else(own),
            study: name(study).or_else(own),
            is_volume,
            ..Entry::default()
        });
        Ok(())
    }
}

fn has_name_of_volume(path: &Path) -> bool {
    let name = path.to_string_lossy().to_lowercase();
    VOLUMES.iter().any(|end| name.ends_with(end))
}

fn has_ending(path: &Path, endings: &[&str]) -> bool {
    path.extension().is_some_and(|e| endings.contains(&e.to_string_lossy().to_lowercase().as_str()))
}

/// The name without what says its format: of `a.nii.gz` a.
fn stem(image: &Path) -> String {
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let end = VOLUMES.iter().filter(|end| name.to_lowercase().ends_with(*end)).map(|end| end.len()).max();
    match end.and_then(|end| name.get(..name.len() - end)) {
        Some(stem) => stem.to_string(),
        None => image.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    }
}

/// The text that is an image's: the one of its name, else the only one.
fn text_of(image: &Path, texts: &[PathBuf]) -> Option<PathBuf> {
    // A folder's name has no ending.
    let own = if image.is_dir() { image.file_name().unwrap_or_default().to_string_lossy().into() } else { stem(image) };
    let is_own = |text: &&PathBuf| text.file_stem().is_some_and(|name| *name == *own);
    let found = texts.iter().find(is_own).or(if let [one] = texts { Some(one) } else { None });
    found.cloned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_text_without_bound_is_refused_without_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("Miller");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("a.png"), "x").unwrap();
        fs::File::create(folder.join("a.txt")).unwrap().set_len(1 << 40).unwrap();
        let error = format!("{:#}", read(dir.path()).unwrap_err());
        assert!(error.contains("the text of image 1") && error.contains("allowed are 16777216"), "{error}");
        assert!(!error.contains("Miller") && error.lines().count() == 1, "{error}");
    }
}
