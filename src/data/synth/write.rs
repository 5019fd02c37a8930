//! A phantom set on disk: images/, boxes.csv and manifest.csv.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::generate;
use super::noise::Noise;
use super::study::SynthOptions;
use super::volume::{VolumeOptions, scans};
use crate::data::image::{self, Picture};
use crate::error::Interrupted;
use crate::fs::{FolderLock, LOCK, replace_file};

const IMAGES: &str = "images";
const MANIFEST: &str = "manifest.csv";
/// Where the findings of radiographs are.
const BOXES: &str = "boxes.csv";

const STOPPED: &str = "stopped, as asked; nothing was drawn, and the same command begins anew";

/// How long a process waits for another one that draws into the same folder.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes all studies of `options` into `folder`; returns how many. Pictures are drawn aside and renamed, and the
/// manifest comes last: where it is, all is.
///
/// # Errors
/// The folder holds a manifest or images already, another process works in it, or it cannot be written.
pub fn write(folder: &Path, options: &SynthOptions) -> Result<usize> {
    write_until(folder, options, &|| false)
}

/// [`write`] that ends early, and leaves nothing, once `stop` says so.
///
/// # Errors
/// As there; [`Interrupted`] where it was stopped.
pub fn write_until(folder: &Path, options: &SynthOptions, stop: &dyn Fn() -> bool) -> Result<usize> {
    hold_and_draw(folder, &|aside| draw(aside, options, stop))
}

/// [`write_until`] for CTs: images/*.nii.gz and manifest.csv, whose column finding_slices names the slices that show
/// what the report says, counted from 0 at the feet.
///
/// # Errors
/// As there.
pub fn write_volumes(folder: &Path, options: &VolumeOptions, stop: &dyn Fn() -> bool) -> Result<usize> {
    hold_and_draw(folder, &|aside| draw_volumes(aside, options, stop))
}

/// [`write`] for processes that need the same set: one draws it, and the others wait and find it there (`None`).
///
/// # Errors
/// The folder holds images without a manifest, another process works in it for minutes, or it cannot be written;
/// [`Interrupted`] once `stop` says so, with nothing left.
pub fn write_once(folder: &Path, options: &SynthOptions, stop: &dyn Fn() -> bool) -> Result<Option<usize>> {
    std::fs::create_dir_all(folder)?;
    let _held = FolderLock::wait(folder, PATIENCE)?;
    if folder.join(MANIFEST).exists() {
        return Ok(None);
    }
    draw_all(folder, &|aside| draw(aside, options, stop)).map(Some)
}

fn is_free(folder: &Path) -> Result<()> {
    for taken in [folder.join(IMAGES), folder.join(MANIFEST), folder.join(BOXES)] {
        ensure!(!taken.exists(), "{}: exists already; nothing is overwritten, name another folder", taken.display());
    }
    Ok(())
}

/// What stands beside the images.
struct Drawn {
    manifest: Vec<u8>,
    /// Of radiographs.
    boxes: Option<Vec<u8>>,
    /// Rows of the manifest.
    studies: usize,
}

/// Fills a folder with images.
type Drawing<'a> = &'a dyn Fn(&Path) -> Result<Drawn>;

fn hold_and_draw(folder: &Path, draw: Drawing) -> Result<usize> {
    is_free(folder)?;
    let made: Vec<&Path> = folder.ancestors().take_while(|above| !above.exists()).collect();
    let drawn = std::fs::create_dir_all(folder).map_err(Into::into).and_then(|()| {
        let _held = FolderLock::take(folder)?;
        // While it is held: afterwards it may be another process's.
        draw_all(folder, draw).inspect_err(|_| {
            if !made.is_empty() {
                drop(std::fs::remove_file(folder.join(LOCK)));
            }
        })
    });
    if drawn.is_err() {
        // Of those that were not there before, as far as they are empty.
        made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
    }
    drawn
}

/// For whoever holds the folder.
fn draw_all(folder: &Path, draw: Drawing) -> Result<usize> {
    is_free(folder)?;
    let (images, drawing) = (folder.join(IMAGES), folder.join(".images.tmp"));
    // What a stopped drawing left.
    drop(std::fs::remove_dir_all(&drawing));
    let drawn = draw(&drawing).and_then(|drawn| {
        std::fs::rename(&drawing, &images)?;
        Ok(drawn)
    });
    let drawn = drawn.inspect_err(|_| drop(std::fs::remove_dir_all(&drawing)))?;
    let boxes = folder.join(BOXES);
    let written = drawn.boxes.map_or(Ok(()), |csv| replace_file(&boxes, &csv));
    // Without their manifest the images are nothing, and the next call would refuse them.
    written.and_then(|()| replace_file(&folder.join(MANIFEST), &drawn.manifest)).inspect_err(|_| {
        drop((std::fs::remove_dir_all(&images), std::fs::remove_file(&boxes)));
    })?;
    Ok(drawn.studies)
}

/// Draws all pictures into `folder`.
fn draw(folder: &Path, options: &SynthOptions, stop: &dyn Fn() -> bool) -> Result<Drawn> {
    std::fs::create_dir_all(folder)?;
    let mut csv = csv::Writer::from_writer(Vec::new());
    let mut boxes = csv::Writer::from_writer(Vec::new());
    boxes.write_record(["image", "sentence", "x", "y", "width", "height", "label", "patient_id", "split"])?;
    // What is right is told where not all reports are.
    let truth = if options.noise > 0.0 { &["noise", "true_report"][..] } else { &[] };
    let columns = ["image", "report", "patient_id", "study_id", "split", "label"];
    csv.write_record(columns.iter().chain(truth))?;
    let mut studies = 0;
    for study in generate(options) {
        ensure!(!stop(), Interrupted(STOPPED.into()));
        let name = format!("{}.png", study.study_id);
        let (path, drawn) = (folder.join(&name), study.image);
        let picture = Picture { width: drawn.width, height: drawn.height, channels: 1, bytes: drawn.pixels };
        image::png(&picture)
            .and_then(|png| Ok(std::fs::write(&path, png)?))
            .with_context(|| path.display().to_string())?;
        let name = format!("images/{name}");
        let fields = [&name, &study.report, &study.patient_id, &study.study_id, study.split, study.label];
        let truth_of = [study.noise.map_or("", Noise::word), study.true_report.as_str()];
        csv.write_record(fields.into_iter().chain(truth_of.into_iter().take(truth.len())))?;
        for found in &study.boxes {
            let place = found.place.map(|number| number.to_string());
            let fields = [&name, &found.sentence].into_iter().chain(&place).map(String::as_str);
            boxes.write_record(fields.chain([found.label, &study.patient_id, study.split]))?;
        }
        studies += 1;
    }
    Ok(Drawn { manifest: in_memory(csv)?, boxes: Some(in_memory(boxes)?), studies })
}

fn in_memory(csv: csv::Writer<Vec<u8>>) -> Result<Vec<u8>> {
    csv.into_inner().context("a writer into memory does not fail")
}

/// [`draw`] for CTs.
fn draw_volumes(folder: &Path, options: &VolumeOptions, stop: &dyn Fn() -> bool) -> Result<Drawn> {
    std::fs::create_dir_all(folder)?;
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["image", "report", "patient_id", "study_id", "split", "label", "finding_slices"])?;
    let mut count = 0;
    for scan in scans(options) {
        ensure!(!stop(), Interrupted(STOPPED.into()));
        let scan = scan?;
        let name = format!("{}.nii.gz", scan.patient_id);
        let path = folder.join(&name);
        std::fs::write(&path, &scan.file).with_context(|| path.display().to_string())?;
        let slices: Vec<String> = scan.finding_slices.iter().map(usize::to_string).collect();
        let (name, study, slices) = (format!("images/{name}"), format!("{}-S1", scan.patient_id), slices.join(";"));
        csv.write_record([&name, &scan.report, &scan.patient_id, &study, scan.split, scan.label, &slices])?;
        count += 1;
    }
    Ok(Drawn { manifest: in_memory(csv)?, boxes: None, studies: count })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::synth::{Language, NORMAL};

    const FEW: SynthOptions =
        SynthOptions { patients: 3, seed: 0, size: 32, language: Language::English, noise: 0.0, normal: NORMAL };

    #[test]
    fn many_who_need_one_set_find_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let drawn: Vec<Option<usize>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| write_once(dir.path(), &FEW, &|| false).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let studies: Vec<usize> = drawn.into_iter().flatten().collect();
        assert_eq!(studies.len(), 1, "one draws");
        assert_eq!(fs::read_dir(dir.path().join(IMAGES)).unwrap().count(), studies[0]);
        assert!(dir.path().join(MANIFEST).is_file() && !dir.path().join(".images.tmp").exists());
    }

    #[test]
    fn a_drawing_that_is_stopped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let asked = std::cell::Cell::new(0);
        let stop = || asked.replace(asked.get() + 1) == 2;
        let error = write_once(dir.path(), &FEW, &stop).unwrap_err();
        assert!(error.downcast_ref::<Interrupted>().is_some(), "{error}");
        assert!(!dir.path().join(".images.tmp").exists() && !dir.path().join(IMAGES).exists());
    }

    #[test]
    fn folders_that_were_made_for_nothing_are_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        assert!(write_until(&folder, &FEW, &|| true).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::create_dir_all(&folder).unwrap();
        assert!(write_until(&folder, &FEW, &|| true).is_err() && folder.is_dir());
        assert!(write(&folder.join("c/d"), &FEW).unwrap() > 0 && folder.join("c/d").join(MANIFEST).is_file());
    }

    #[test]
    fn what_another_process_draws_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let held = FolderLock::take(dir.path()).unwrap();
        fs::create_dir(dir.path().join(".images.tmp")).unwrap();
        let error = write(dir.path(), &FEW).unwrap_err().to_string();
        assert!(error.contains("another process is working in it"), "{error}");
        assert!(dir.path().join(".images.tmp").is_dir());
        drop(held);
        // Its images are there, and its manifest is not yet.
        fs::create_dir(dir.path().join(IMAGES)).unwrap();
        fs::write(dir.path().join(IMAGES).join("a.png"), "x").unwrap();
        assert!(write_once(dir.path(), &FEW, &|| false).unwrap_err().to_string().contains("exists already"));
        assert!(dir.path().join(IMAGES).join("a.png").is_file());
    }
}
