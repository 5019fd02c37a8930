//! A phantom set on disk: images/ and manifest.csv.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::generate;
use super::study::SynthOptions;
use crate::data::image::{self, Picture};
use crate::fs::replace_file;

/// Writes all studies of `options` into `folder`; returns how many. Pictures are drawn aside and renamed, and the
/// manifest comes last: where it is, all is.
///
/// # Errors
/// The folder holds a manifest or images already, or cannot be written.
pub fn write(folder: &Path, options: &SynthOptions) -> Result<usize> {
    let (images, drawing, manifest) = (folder.join("images"), folder.join(".images.tmp"), folder.join("manifest.csv"));
    for taken in [&images, &manifest] {
        ensure!(!taken.exists(), "{}: exists already; nothing is overwritten, name another folder", taken.display());
    }
    // What a stopped drawing left.
    drop(std::fs::remove_dir_all(&drawing));
    let drawn = draw(&drawing, options)
        .and_then(|(csv, studies)| {
            std::fs::rename(&drawing, &images)?;
            replace_file(&manifest, &csv)?;
            Ok(studies)
        })
        .inspect_err(|_| drop(std::fs::remove_dir_all(&drawing)));
    if drawn.is_err() && images.exists() {
        // Without its manifest it is nothing, and the next call would refuse it.
        drop(std::fs::remove_dir_all(&images));
    }
    drawn
}

/// Draws all pictures into `folder`; returns the manifest and how many studies it has.
fn draw(folder: &Path, options: &SynthOptions) -> Result<(Vec<u8>, usize)> {
    std::fs::create_dir_all(folder)?;
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["image", "report", "patient_id", "study_id", "split", "label"])?;
    let mut studies = 0;
    for study in generate(options) {
        let name = format!("{}.png", study.study_id);
        let (path, drawn) = (folder.join(&name), study.image);
        let picture = Picture { width: drawn.width, height: drawn.height, channels: 1, bytes: drawn.pixels };
        image::png(&picture)
            .and_then(|png| Ok(std::fs::write(&path, png)?))
            .with_context(|| path.display().to_string())?;
        let name = format!("images/{name}");
        csv.write_record([&name, &study.report, &study.patient_id, &study.study_id, study.split, study.label])?;
        studies += 1;
    }
    Ok((csv.into_inner().context("a writer into memory does not fail")?, studies))
}
