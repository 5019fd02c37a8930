//! Which reader a volume needs.

use std::path::Path;

use anyhow::Result;

use super::planes::Volume;
use super::{nifti, npy, series};
use crate::data::image::frame_of;

/// Whether it is a volume: NIfTI (`.nii`, `.nii.gz`) or NumPy (`.npy`, `.npz`) by its name, or a folder whose first
/// DICOM file is a slice of a series. Other folders hold images.
pub fn is_volume(path: &Path) -> bool {
    let file = frame_of(path).0;
    is_named(&file, &[".nii", ".nii.gz", ".npy", ".npz"]) || (file.is_dir() && series::is_one(&file))
}

fn is_named(file: &Path, ends: &[&str]) -> bool {
    let name = file.to_string_lossy().to_ascii_lowercase();
    ends.iter().any(|end| name.ends_with(end))
}

/// # Errors
/// No reader takes it, or it claims more than any volume has.
pub(super) fn open(path: &Path) -> Result<Volume> {
    let (file, time) = frame_of(path);
    if file.is_dir() {
        series::open(&file)
    } else if is_named(&file, &[".npy", ".npz"]) {
        npy::open(&file)
    } else {
        nifti::open(&file, time)
    }
}
