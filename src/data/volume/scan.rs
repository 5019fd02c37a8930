//! A volume that was looked into, and slices of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};

use super::cut::{Cut, ensure_there};
use super::open::{Kind, kind_of, no_series, open_known};
use super::planes::Volume;
use super::policy::{VolumePolicy, evenly_spaced};
use super::series::Series;
use super::window::{Ranges, SHOWN};
use crate::data::image::Picture;

/// A volume, and the slices that it is cut into. The files of a series are looked through once; no file stays open.
#[derive(Clone, Debug)]
pub struct Scan {
    path: PathBuf,
    series: Option<Arc<Series>>,
    slices: Slices,
    ranges: Ranges,
}

/// What slices are.
#[derive(Clone, Debug)]
enum Slices {
    /// Resampled voxels.
    Cut(Cut),
    /// So many frames in colour, of as many as there are, as they are.
    Frames(usize, usize),
}

impl Scan {
    /// Looks into `path`; `None` where that is no volume. `#N` behind the name picks a time point of several, counted
    /// from 1; without it the first is read.
    ///
    /// # Errors
    /// It cannot be opened, claims more than any volume has, or is a folder of no one series. No message says its name.
    pub fn of(path: &Path, policy: &VolumePolicy) -> Result<Option<Self>> {
        let series = match kind_of(path) {
            Kind::Image if path.is_dir() => bail!(no_series(path)),
            Kind::Image => return Ok(None),
            Kind::Voxels => None,
            Kind::Series(listing) => Some(Arc::new(Series::of(listing)?)),
        };
        Self::new(path, series, policy).map(Some)
    }

    pub(super) fn new(path: &Path, series: Option<Arc<Series>>, policy: &VolumePolicy) -> Result<Self> {
        let geometry = open_known(path, series.as_ref())?.geometry;
        let slices = match series.as_ref().is_some_and(|series| series.is_colour_loop) {
            true => {
                let frames = geometry.shape[2];
                Slices::Frames(policy.slices.map_or(frames, |most| most.clamp(1, frames)), frames)
            }
            false => Slices::Cut(Cut::of(&geometry, policy)?),
        };
        Ok(Self { path: path.to_path_buf(), series, slices, ranges: Ranges::new(&policy.window) })
    }

    /// How many slices there are.
    pub fn count(&self) -> usize {
        match &self.slices {
            Slices::Cut(cut) => cut.count(),
            Slices::Frames(kept, _) => *kept,
        }
    }

    /// Slices by their numbers, counted from 0 along the axis, in the order asked for: gray, or three windows as three
    /// channels; frames of a loop in colour as they are.
    ///
    /// # Errors
    /// It is broken or truncated, holds NaN in what is read, has no such slice, or takes more memory than
    /// `data.max_image_mib`. No message says its name.
    pub fn slices(&self, which: &[usize]) -> Result<Vec<Picture>> {
        ensure_there(which, self.count())?;
        let cut = match (&self.slices, &self.series) {
            (Slices::Cut(cut), _) => cut,
            (Slices::Frames(kept, all), Some(series)) => {
                let frames: Vec<usize> = which.iter().map(|&slice| evenly_spaced(slice, *kept, *all)).collect();
                return series.shown(&frames);
            }
            (Slices::Frames(..), None) => bail!("has no frames"),
        };
        let ranges = match self.series.is_some() && self.ranges.are_of_files() {
            true => vec![SHOWN],
            false => self.ranges.of(|| self.open())?,
        };
        let mut pictures = cut.pictures(&mut self.open()?, &ranges, which)?;
        if self.series.as_ref().is_some_and(|series| series.is_inverted) && !self.ranges.are_of_files() {
            pictures.iter_mut().flat_map(|picture| &mut picture.bytes).for_each(|byte| *byte = 255 - *byte);
        }
        Ok(pictures)
    }

    fn open(&self) -> Result<Volume> {
        match &self.series {
            Some(series) if self.ranges.are_of_files() => Ok(series.volume(true)),
            series => open_known(&self.path, series.as_ref()),
        }
    }
}
