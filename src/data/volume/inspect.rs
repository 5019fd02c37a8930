//! What a look at a volume tells, for checks of whole data sets.

use std::path::Path;

use anyhow::Result;

use super::cut::Cut;
use super::doubt::Seen;
use super::geometry::Order;
use super::open::{open_known, series_of};
use super::policy::{VolumePolicy, evenly_spaced};

/// Planes of a volume that are looked at.
const LOOKED_AT: usize = 8;

/// What is known of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Axial slices.
    pub slices: usize,
    /// Whether the file says which way its axes run.
    pub is_oriented: bool,
    /// Whether it is a series whose slices are not evenly spaced.
    pub is_uneven: bool,
    /// Whether it is a series whose files are not called in the order of its slices.
    pub is_shuffled: bool,
    /// Why its values seem to be no Hounsfield units.
    pub doubt: Option<&'static str>,
}

/// Opens a volume and reads a few of its planes, evenly spaced; what is packed is unpacked to its end.
///
/// # Errors
/// It cannot be read.
pub fn inspect(path: &Path) -> Result<Inspected> {
    let series = series_of(path)?;
    let mut volume = open_known(path, series.as_ref())?;
    let (is_oriented, Order { is_uneven, is_shuffled }) = (volume.geometry.is_known, volume.geometry.order);
    let known = |slices, doubt| Inspected { slices, is_oriented, is_uneven, is_shuffled, doubt };
    if let Some(colours) = series.filter(|series| series.is_colour_loop) {
        colours.shown(&[0])?;
        return Ok(known(volume.geometry.shape[2], None));
    }
    let slices = Cut::of(&volume.geometry, &VolumePolicy::default())?.count();
    let planes = volume.geometry.shape[2];
    let looked_at = planes.min(LOOKED_AT);
    let (mut seen, mut plane) = (Seen::default(), Vec::new());
    for i in 0..looked_at {
        volume.planes.read(evenly_spaced(i, looked_at, planes), &mut plane)?;
        seen.add(&plane);
    }
    volume.planes.finish()?;
    Ok(known(slices, seen.doubt()))
}
