//! Volumes: CT and MR as files of many slices, each read as a picture.
//!
//! Owns the readers of volumes, their orientation, resampling and windows. Which slices of a volume are read is the
//! caller's choice. But for percentiles, no volume is in memory as a whole: planes are read one after another, of a
//! file that is not compressed only those that the slices asked for are made of; of one that is, all, for its checksum.

mod bytes;
mod cut;
#[cfg(test)]
mod damage_tests;
mod doubt;
mod fault;
mod geometry;
mod held;
mod inspect;
mod nifti;
mod npy;
mod numbers;
mod open;
mod planes;
mod policy;
mod series;
#[cfg(test)]
mod tests;
mod window;

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::image::Picture;
use cut::Cut;
pub use fault::Fault;
pub use held::HeldVolume;
pub use inspect::{Inspected, inspect};
pub use open::is_volume;
use open::open;
pub use policy::{Axis, Orientation, VolumePolicy, evenly_spaced};
pub use window::{Range, Window};

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
