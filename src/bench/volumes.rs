//! Volumes to slices, on one thread.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::Spread;
use crate::data::image::{NO_ZEROTH, counts_from_zero, frame_of};
use crate::data::volume::Scan;
use crate::data::{Picture, VolumePolicy};
use crate::fs::replace_file;
use crate::npy;
use crate::ops::peak_rss_mib;

/// What is measured.
#[derive(Clone, Debug)]
pub struct VolumesBench {
    /// Files and folders of series.
    pub volumes: Vec<PathBuf>,
    /// How they are cut.
    pub policy: VolumePolicy,
    /// How often all are read, after once for nothing.
    pub rounds: usize,
    /// A new file for the slices of the first, as a NumPy array of bytes: slices, rows, columns, channels if three.
    pub keep: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct VolumesFigures {
    /// Volumes of a round.
    pub volumes: usize,
    /// Slices of all of them.
    pub slices: usize,
    /// Files to slices in 8 bits, volumes a second on one core.
    pub volumes_per_s: Spread,
    /// Memory at most.
    pub peak_rss_mib: u64,
}

/// Runs it.
///
/// # Errors
/// No volume, or one that cannot be read; something is where slices are to be kept.
pub fn volumes(bench: &VolumesBench) -> Result<VolumesFigures> {
    let count = bench.volumes.len();
    ensure!(count > 0 && bench.rounds > 0, "there is nothing to measure: volumes and rounds start at 1");
    if let Some(file) = &bench.keep {
        let is_free = fs::symlink_metadata(file).is_err();
        ensure!(is_free, "{}: is there already, and nothing is written over; name another file", file.display());
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        ensure!(folder.is_none_or(Path::is_dir), "{}: there is no such folder; make it first", file.display());
    }
    let (mut rates, mut slices) = (Vec::new(), 0);
    for round in 0..=bench.rounds {
        slices = 0;
        let mut seconds = 0.0;
        for (i, path) in bench.volumes.iter().enumerate() {
            let started = Instant::now();
            // The file may be called after a patient.
            let place = || format!("volume {} of the {count} on the command line", i + 1);
            let pictures = read(path, &bench.policy).with_context(place)?;
            seconds += started.elapsed().as_secs_f64();
            slices += pictures.len();
            // When all were read once: nothing is left behind where one of them cannot be.
            if let Some(file) = bench.keep.as_deref().filter(|_| (round, i) == (1, 0)) {
                keep(&pictures, file)?;
            }
        }
        if round > 0 {
            rates.push(count as f64 / seconds);
        }
    }
    Ok(VolumesFigures { volumes: count, slices, volumes_per_s: Spread::of(&rates), peak_rss_mib: peak_rss_mib() })
}

/// All slices.
fn read(path: &Path, policy: &VolumePolicy) -> Result<Vec<Picture>> {
    ensure!(!counts_from_zero(path), "{NO_ZEROTH}");
    ensure!(frame_of(path).0.exists(), "there is no such file or folder");
    let scan = Scan::of(path, policy)?;
    let scan = scan.context(
        "is no volume; allowed are NIfTI (.nii, .nii.gz), NumPy (.npy, .npz), a folder of one DICOM series, and a \
         DICOM file of several frames",
    )?;
    scan.slices(&(0..scan.count()).collect::<Vec<_>>())
}

fn keep(pictures: &[Picture], file: &Path) -> Result<()> {
    let first = pictures.first().context("the first volume has no slices")?;
    let mut shape = vec![pictures.len(), first.height as usize, first.width as usize];
    shape.extend(Some(first.channels).filter(|channels| *channels > 1));
    let mut bytes = npy::header_of_bytes(&shape);
    pictures.iter().for_each(|picture| bytes.extend_from_slice(&picture.bytes));
    replace_file(file, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("a.nii");
        fs::write(&volume, "a scan").unwrap();
        let bench = VolumesBench {
            volumes: vec![volume.clone()],
            policy: VolumePolicy::default(),
            rounds: 1,
            keep: Some(volume.clone()),
        };
        assert!(volumes(&bench).unwrap_err().to_string().contains("is there already"));
        assert_eq!(fs::read(&volume).unwrap(), b"a scan");
        let bench = VolumesBench { keep: Some(dir.path().join("none/k.npy")), ..bench };
        assert!(volumes(&bench).unwrap_err().to_string().contains("there is no such folder; make it first"));
    }
}
