//! Volumes: CT and MR as files of many slices, each read as a picture.
//!
//! Owns the readers of volumes, their orientation, resampling and windows. Which slices of a volume are read is the
//! caller's choice. A volume is never in memory as a whole: planes are read one after another, and of a file that is
//! not compressed only those that the slices asked for are made of.

mod bytes;
mod cut;
mod doubt;
mod geometry;
mod inspect;
mod nifti;
mod npy;
mod numbers;
mod planes;
mod policy;
mod series;
#[cfg(test)]
mod tests;
mod window;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use super::image::{Picture, frame_of};
use cut::Cut;
pub use inspect::{Inspected, inspect};
use planes::Volume;
pub use policy::{Axis, Orientation, VolumePolicy};
pub use window::{Range, Window};

/// Most slices of a volume; a header that claims more is broken or hostile.
const MOST_SLICES: usize = 30_000;

/// Whether it is a volume: NIfTI (`.nii`, `.nii.gz`) or NumPy (`.npy`, `.npz`) by its name, or a folder whose first DICOM
/// file is a slice of a series. Other folders hold images.
pub fn is_volume(path: &Path) -> bool {
    let file = frame_of(path).0;
    is_named(&file, &[".nii", ".nii.gz", ".npy", ".npz"]) || (file.is_dir() && series::is_one(&file))
}

fn is_named(file: &Path, ends: &[&str]) -> bool {
    let name = file.to_string_lossy().to_ascii_lowercase();
    ends.iter().any(|end| name.ends_with(end))
}

/// Slices that the volume is cut into, from its header alone.
///
/// # Errors
/// It cannot be opened, is no volume, or claims more than any volume has.
pub fn slice_count(path: &Path, policy: &VolumePolicy) -> Result<usize> {
    let count = open(path).and_then(|volume| Ok(Cut::of(&volume.geometry, policy)?.count()));
    count.with_context(|| path.display().to_string())
}

/// Slices of a volume by their numbers, counted from 0 along the axis, in the order asked for: gray, or three windows
/// as three channels. `#N` behind the name picks a time point of several, counted from 1; without it the first is read.
///
/// # Errors
/// It cannot be opened, is broken or truncated, holds NaN in what is read, has no such slice, or takes more memory than
/// `data.max_image_mib`.
pub fn slices(path: &Path, policy: &VolumePolicy, which: &[usize]) -> Result<Vec<Picture>> {
    read(path, policy, which).with_context(|| path.display().to_string())
}

fn read(path: &Path, policy: &VolumePolicy, which: &[usize]) -> Result<Vec<Picture>> {
    let mut volume = open(path)?;
    let cut = Cut::of(&volume.geometry, policy)?;
    let count = cut.count();
    if let Some(beyond) = which.iter().find(|&&slice| slice >= count) {
        bail!("has {count} slices, so there is no slice {}", beyond + 1);
    }
    let ranges = match &policy.window {
        Window::Percentile(percents) => vec![window::of_percentiles(&mut volume, *percents)?],
        Window::Values(ranges) => ranges.clone(),
    };
    if matches!(policy.window, Window::Percentile(_)) {
        // A stream is read from its start again.
        volume = open(path)?;
    }
    cut.pictures(&mut volume, &ranges, which)
}

fn open(path: &Path) -> Result<Volume> {
    let (file, time) = frame_of(path);
    let volume = if file.is_dir() {
        series::open(&file)?
    } else if is_named(&file, &[".npy", ".npz"]) {
        npy::open(&file)?
    } else {
        nifti::open(&file, time)?
    };
    let slices = volume.geometry.shape.iter().max().copied().unwrap_or(0);
    ensure!(slices <= MOST_SLICES, "claims {slices} voxels along one axis; allowed are {MOST_SLICES}");
    Ok(volume)
}

/// Says something about volumes once in a process: thousands of files may have the same fault.
fn told_once(doubt: &'static str, tell: impl FnOnce()) {
    static TOLD: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !told.contains(&doubt) {
        told.push(doubt);
        drop(told);
        tell();
    }
}
