//! Which reader a volume needs.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::planes::Volume;
use super::series::{self, Listing, Series};
use super::{nifti, npy};
use crate::data::image::frame_of;

/// What a path names.
pub(super) enum Kind {
    Image,
    /// NIfTI or NumPy.
    Voxels,
    /// DICOM.
    Series(Listing),
}

/// Whether it is a volume: NIfTI (`.nii`, `.nii.gz`) or NumPy (`.npy`, `.npz`) by its name, a folder whose first DICOM
/// file is a slice of a series, or a DICOM file of several frames, none of which is named. Other folders hold images.
pub fn is_volume(path: &Path) -> bool {
    !matches!(kind_of(path), Kind::Image)
}

/// [`is_volume`], with the files that were listed for it.
pub(super) fn kind_of(path: &Path) -> Kind {
    let file = frame_of(path).0;
    if file.is_dir() {
        let listing = Listing::of_folder(&file).ok().filter(Listing::is_series);
        return listing.map_or(Kind::Image, Kind::Series);
    }
    if is_named(&file, &[".nii", ".nii.gz", ".npy", ".npz"]) {
        Kind::Voxels
    } else if file == path && may_be_dicom(path) && series::has_frames(path) {
        Kind::Series(Listing::of_file(path))
    } else {
        Kind::Image
    }
}

/// Files of other images are not opened.
fn may_be_dicom(file: &Path) -> bool {
    file.extension().is_none() || is_named(file, &[".dcm", ".dicom", ".ima"])
}

fn is_named(file: &Path, ends: &[&str]) -> bool {
    let name = file.to_string_lossy().to_ascii_lowercase();
    ends.iter().any(|end| name.ends_with(end))
}

/// The series that a path names; `None` of other volumes.
///
/// # Errors
/// It is no one series.
pub(super) fn series_of(path: &Path) -> Result<Option<Arc<Series>>> {
    let file = frame_of(path).0;
    let listing = match (file.is_dir(), may_be_dicom(&file)) {
        (true, _) => Listing::of_folder(&file)?,
        (false, true) => Listing::of_file(&file),
        (false, false) => return Ok(None),
    };
    Series::of(listing).map(|series| Some(Arc::new(series)))
}

/// Opens a volume; `series`: what [`series_of`] gave.
///
/// # Errors
/// No reader takes it, or it claims more than any volume has.
pub(super) fn open_known(path: &Path, series: Option<&Arc<Series>>) -> Result<Volume> {
    let (file, time) = frame_of(path);
    match series {
        Some(series) => {
            ensure!(time == 0, "is a series of slices at one time, so there is no #{}", time + 1);
            Ok(series.volume())
        }
        None if is_named(&file, &[".npy", ".npz"]) => {
            ensure!(time == 0, "is an array of one point in time, so there is no #{}", time + 1);
            npy::open(&file)
        }
        None => nifti::open(&file, time),
    }
}
