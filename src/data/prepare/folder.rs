//! Folders of images with a text of the same name beside each (a.png, a.txt), or one text for all images of a folder.
//! The first folder below the root is the patient, where there is one; the folder that holds the image is the study.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::entry::{Entry, Found, MAX_REPORT};
use crate::fs::unnamed_up_to;

const IMAGES: [&str; 5] = ["png", "jpg", "jpeg", "dcm", "dicom"];
/// Deepest folder that is looked into: a link to above would go on for ever.
const DEEPEST: usize = 12;

pub(super) fn read(root: &Path) -> Result<Found> {
    let mut found = Found::default();
    walk(root, root, 0, &mut found)?;
    ensure!(
        !found.entries.is_empty(),
        "{}: holds no image with a .txt of its name, or one .txt in its folder",
        root.display()
    );
    Ok(found)
}

fn walk(root: &Path, folder: &Path, depth: usize, found: &mut Found) -> Result<()> {
    let place = || format!("{}: a folder in it", root.display());
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(place)? {
        paths.push(entry.with_context(place)?.path());
    }
    paths.sort();
    let has = |path: &Path, endings: &[&str]| {
        path.extension().is_some_and(|e| endings.contains(&e.to_string_lossy().to_lowercase().as_str()))
    };
    let texts: Vec<&PathBuf> = paths.iter().filter(|p| has(p, &["txt"])).collect();
    for image in paths.iter().filter(|p| has(p, &IMAGES)) {
        let own = image.with_extension("txt");
        let report = match (own.is_file(), texts.as_slice()) {
            (true, _) => &own,
            (false, [one]) => one,
            _ => {
                found.leave_out("without a text of its name, nor one text in its folder");
                continue;
            }
        };
        // Names of folders and files may name patients.
        let number = found.entries.len() + 1;
        let place = || format!("{}: the text of image {number} in the order of names", root.display());
        let text = unnamed_up_to(report, MAX_REPORT).with_context(place)?;
        let report = String::from_utf8(text)
            .with_context(|| format!("{} is not UTF-8; convert it with `iconv -t UTF-8`", place()))?;
        let inside = folder.strip_prefix(root).unwrap_or(folder);
        let name = |path: &Path| Some(path.to_string_lossy().into_owned()).filter(|n| !n.is_empty());
        let patient = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
        found.entries.push(Entry {
            image: image.clone(),
            report: report.trim().to_string(),
            patient: patient.or_else(|| name(Path::new(image.file_stem().unwrap_or_default()))),
            study: name(inside).or_else(|| name(Path::new(image.file_stem().unwrap_or_default()))),
            ..Entry::default()
        });
    }
    for inner in paths.iter().filter(|p| p.is_dir() && depth < DEEPEST) {
        walk(root, inner, depth + 1, found)?;
    }
    Ok(())
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
