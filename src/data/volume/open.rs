//! Which reader a volume needs.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};

use super::planes::Volume;
use super::series::{self, Listing, Series};
use super::{nifti, npy};
use crate::data::image::dicom::is_dicom;
use crate::data::image::frame_of;
use crate::fs::open_plain;

/// Endings of NIfTI and NumPy files.
const VOXELS: [&str; 4] = [".nii", ".nii.gz", ".npy", ".npz"];

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
    if is_named(&file, &VOXELS) {
        Kind::Voxels
    } else if file == path && may_be_dicom(path) && series::has_frames(path) {
        Kind::Series(Listing::of_file(path))
    } else {
        Kind::Image
    }
}

/// Whether rows of it are of voxels in space, NIfTI, NumPy or DICOM slices with a place, and not images or loops;
/// `None` where only a look into the file tells, and `looks` does not allow one.
pub(in crate::data) fn is_of_voxels(path: &Path, looks: bool) -> Option<bool> {
    let file = frame_of(path).0;
    if is_named(&file, &VOXELS) {
        return Some(true);
    }
    if is_named(&file, &[".png", ".jpg", ".jpeg"]) || file != path {
        return Some(false);
    }
    looks.then(|| matches!(kind_of(path), Kind::Series(listing) if listing.is_placed()))
}

/// Entries of a folder that are counted for a message.
const MOST_COUNTED: usize = 300;

/// Whether a file has DICOM's mark.
fn is_marked_dicom(file: &Path) -> bool {
    let mut head = Vec::with_capacity(132);
    let read = open_plain(file).and_then(|file| file.take(132).read_to_end(&mut head));
    read.is_ok() && is_dicom(&head)
}

/// What a folder that is no series holds instead, and what to name; files are counted and not named.
pub(in crate::data) fn no_series(folder: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(folder) else { return "is a folder that cannot be opened".into() };
    let (mut volumes, mut dicom, mut images, mut folders, mut others) = (0, 0, 0, 0, 0);
    let mut entries = entries.flatten().map(|entry| entry.path());
    for path in entries.by_ref().take(MOST_COUNTED) {
        let count = match () {
            () if path.is_dir() => &mut folders,
            () if is_named(&path, &VOXELS) => &mut volumes,
            () if is_named(&path, &[".png", ".jpg", ".jpeg"]) => &mut images,
            () if may_be_dicom(&path) && is_marked_dicom(&path) => &mut dicom,
            () => &mut others,
        };
        *count += 1;
    }
    let least = if entries.next().is_some() { "at least " } else { "" };
    let several = "or where a report is about several, all of them (a.png;b.png)";
    match (volumes, dicom, images, folders, others) {
        (1.., ..) => format!("is a folder of {least}{volumes} NIfTI or NumPy files; name the file, {several}"),
        (_, 1.., ..) => {
            let why = match Listing::of_folder(folder) {
                Err(error) => crate::error::one_line(&error),
                Ok(_) => "the first does not say where its slice lies".into(),
            };
            format!("is a folder of {least}{dicom} DICOM files, and no series: {why}; name the file, {several}")
        }
        (_, _, 1.., ..) => format!("is a folder of {least}{images} images, and no series; name the file, {several}"),
        (.., 1.., _) => {
            format!("is a folder of {least}{folders} folders; name the one that holds the slices of one series")
        }
        (.., 1..) => format!("is a folder without images: none of its {least}{others} files is one; name another"),
        _ => "is an empty folder; name one that holds the slices of one DICOM series, or a file".into(),
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
            ensure!(time == 0, "is a series of slices at one time, so there is no #{}; name the folder", time + 1);
            Ok(series.volume(false))
        }
        None if is_named(&file, &[".npy", ".npz"]) => {
            ensure!(time == 0, "is an array of one point in time, so there is no #{}", time + 1);
            npy::open(&file)
        }
        None => nifti::open(&file, time),
    }
}
