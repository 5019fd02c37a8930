//! From stored planes to pictures: which planes a slice is made of, and resampling to a spacing.
//!
//! A side of n voxels of size s becomes m = max(1, round(n · s / spacing)) of size n · s / m, edges kept in place:
//! place o is read at (o + 0.5) · n / m − 0.5, linear between the two voxels around it, as `scipy.ndimage.zoom` with
//! `order=1, mode="nearest", grid_mode=True` and as PyTorch's `interpolate` with `align_corners=False`. Nothing is
//! smoothed before it is made coarser, as there.

use anyhow::{Result, bail, ensure};
use tracing::warn;

use super::doubt::{Seen, told_once};
use super::geometry::{Along, Geometry, MOST_SLICES};
use super::planes::Volume;
use super::policy::{Axis, Orientation, VolumePolicy, evenly_spaced};
use super::window::Range;
use crate::data::image::{Picture, afford};

/// One side of what is cut, along one of the file's axes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Side {
    axis: usize,
    is_reversed: bool,
    /// Voxels in the file.
    from: usize,
    /// Voxels after resampling.
    to: usize,
}

/// The two voxels around a place and the share of the second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Between {
    first: usize,
    second: usize,
    share: f32,
}

/// How a volume is cut.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cut {
    /// From slice to slice.
    along: Side,
    across: Side,
    down: Side,
    /// Slices after resampling that are kept.
    kept: usize,
}

impl Side {
    fn of(geometry: &Geometry, along: Along, spacing: Option<f64>) -> Result<Self> {
        let from = geometry.shape[along.axis];
        let to = match spacing {
            None => from,
            Some(spacing) => {
                let to = (from as f64 * geometry.spacing()[along.axis] / spacing).round().max(1.0);
                ensure!(
                    to <= MOST_SLICES as f64,
                    "has {to} voxels along one side at {spacing} mm; allowed are {MOST_SLICES} (data.volume.spacing)"
                );
                to as usize
            }
        };
        Ok(Self { axis: along.axis, is_reversed: along.is_reversed, from, to })
    }

    fn is_as_stored(&self) -> bool {
        self.from == self.to && !self.is_reversed
    }

    fn between(&self, place: usize) -> Between {
        let place = if self.is_reversed { self.to - 1 - place } else { place };
        if self.to == self.from {
            return Between { first: place, second: place, share: 0.0 };
        }
        let last = (self.from - 1) as f64;
        let at = ((place as f64 + 0.5) * self.from as f64 / self.to as f64 - 0.5).clamp(0.0, last);
        let first = at as usize;
        Between { first, second: (first + 1).min(self.from - 1), share: at.fract() as f32 }
    }
}

impl Cut {
    /// # Errors
    /// The file does not say which way its axes run, or slices would be too many or too large.
    pub fn of(geometry: &Geometry, policy: &VolumePolicy) -> Result<Self> {
        geometry.check()?;
        let turned = |along: Along, wanted: bool| Along { is_reversed: along.is_reversed != wanted, ..along };
        // Which of x, y, z: along, across, down, each with whether it runs against RAS.
        let [x, y, z] = match policy.orientation {
            Orientation::Stored => [0, 1, 2].map(|axis| Along { axis, is_reversed: false }),
            _ => geometry.canonical()?,
        };
        let is_hung = policy.orientation == Orientation::Lps;
        let (along, across, down) = match policy.axis {
            Axis::Axial => ((z, 2, false), (x, 0, is_hung), (y, 1, is_hung)),
            Axis::Coronal => ((y, 1, is_hung), (x, 0, is_hung), (z, 2, is_hung)),
            Axis::Sagittal => ((x, 0, is_hung), (y, 1, is_hung), (z, 2, is_hung)),
        };
        let side = |(along, world, is_against): (Along, usize, bool)| {
            Side::of(geometry, turned(along, is_against), policy.spacing.map(|spacing| spacing[world]))
        };
        let (along, across, down) = (side(along)?, side(across)?, side(down)?);
        let kept = policy.slices.map_or(along.to, |most| most.clamp(1, along.to));
        Ok(Self { along, across, down, kept })
    }

    pub fn count(&self) -> usize {
        self.kept
    }

    /// Where a kept slice lies: in the middle of its share of the volume.
    fn place(&self, slice: usize) -> Between {
        self.along.between(evenly_spaced(slice, self.kept, self.along.to))
    }

    /// Slices as pictures, in the order asked for.
    ///
    /// # Errors
    /// It is broken or truncated, holds NaN in what is read, or takes too much memory.
    pub fn pictures(&self, volume: &mut Volume, ranges: &[Range], which: &[usize]) -> Result<Vec<Picture>> {
        let picture = self.across.to as u64 * self.down.to as u64;
        afford(self.need(volume, which.len()) + picture * (ranges.len() * which.len()) as u64)?;
        let mut pictures: Vec<Option<Picture>> = vec![None; which.len()];
        let seen =
            self.values(volume, which, &mut |index, values| pictures[index] = Some(self.picture(values, ranges)))?;
        if let Some(doubt) = seen.doubt().filter(|_| ranges.iter().any(Range::is_of_hounsfield)) {
            told_once(doubt, || warn!("a volume {doubt}; `data lint` names each"));
        }
        Ok(pictures.into_iter().flatten().collect())
    }

    /// Bytes that so many slices take until they are pictures.
    fn need(&self, volume: &Volume, slices: usize) -> u64 {
        let area = |axes: [usize; 2]| axes.iter().map(|&axis| volume.geometry.shape[axis] as u64).product::<u64>();
        // Slices that wait for the rest of their lines, or two planes and what lies between them.
        let waiting = if self.along.axis == 2 { 3 } else { slices as u64 };
        // A plane as the file has it and as values; a slice, turned; its values after resampling.
        area([0, 1]) * 12
            + (waiting + 1) * 4 * area([self.across.axis, self.down.axis])
            + 4 * self.across.to as u64 * self.down.to as u64
    }

    /// Values of slices after resampling, row after row, each given to `done` with its place in `which`; not in order.
    ///
    /// # Errors
    /// It is broken or truncated, holds NaN in what is read, or takes too much memory.
    pub fn values(&self, volume: &mut Volume, which: &[usize], done: &mut impl FnMut(usize, &[f32])) -> Result<Seen> {
        let places: Vec<Between> = which.iter().map(|&slice| self.place(slice)).collect();
        let mut seen = Seen::default();
        let mut resampling = Resampling::of(self);
        let mut done = |index: usize, slice: &[f32]| done(index, resampling.of_slice(slice));
        if self.along.axis == 2 {
            whole_planes(volume, &places, &mut seen, &mut done)?;
        } else {
            lines_of_planes(volume, self.along.axis, &places, &mut seen, &mut done)?;
        }
        if !which.is_empty() {
            volume.planes.finish()?;
        }
        Ok(seen)
    }

    fn picture(&self, values: &[f32], ranges: &[Range]) -> Picture {
        let channels = ranges.len();
        let mut bytes = Vec::with_capacity(values.len() * channels);
        match ranges {
            [one] => bytes.extend(one.bytes(values)),
            several => {
                bytes.resize(values.len() * channels, 0);
                for (channel, range) in several.iter().enumerate() {
                    let places = bytes.iter_mut().skip(channel).step_by(channels);
                    places.zip(range.bytes(values)).for_each(|(to, byte)| *to = byte);
                }
            }
        }
        Picture { width: self.across.to as u32, height: self.down.to as u32, channels, bytes }
    }
}

/// Slices one after another, resampled; what all have in common is worked out once.
struct Resampling<'a> {
    cut: &'a Cut,
    /// Where each column is read.
    columns: Vec<Between>,
    /// A slice whose rows are the file's columns, turned; a row between two; what came of a slice.
    turned: Vec<f32>,
    line: Vec<f32>,
    values: Vec<f32>,
}

impl<'a> Resampling<'a> {
    fn of(cut: &'a Cut) -> Self {
        let columns = (0..cut.across.to).map(|column| cut.across.between(column)).collect();
        Self { cut, columns, turned: Vec::new(), line: Vec::new(), values: Vec::new() }
    }

    /// Of a slice with the file's sampling, the earlier axis fastest.
    fn of_slice<'b>(&'b mut self, slice: &'b [f32]) -> &'b [f32] {
        let Self { cut: Cut { across, down, .. }, columns, turned, line, values } = self;
        let rows = if across.axis < down.axis {
            if across.is_as_stored() && down.is_as_stored() {
                return slice;
            }
            slice
        } else {
            transpose(slice, down.from, turned);
            turned
        };
        values.clear();
        values.reserve(across.to * down.to);
        for row in 0..down.to {
            let Between { first, second, share } = down.between(row);
            let (a, b) = (&rows[first * across.from..][..across.from], &rows[second * across.from..][..across.from]);
            let row = if share == 0.0 {
                a
            } else {
                line.clear();
                line.extend(a.iter().zip(b).map(|(a, b)| a + (b - a) * share));
                &line[..]
            };
            match (across.from == across.to, across.is_reversed) {
                (true, false) => values.extend_from_slice(row),
                (true, true) => values.extend(row.iter().rev()),
                (false, _) => {
                    values.extend(columns.iter().map(|c| row[c.first] + (row[c.second] - row[c.first]) * c.share));
                }
            }
        }
        values
    }
}

/// # Errors
/// A number beyond those of `count` slices.
pub(super) fn ensure_there(which: &[usize], count: usize) -> Result<()> {
    let beyond = which.iter().find(|&&slice| slice >= count);
    beyond.map_or(Ok(()), |slice| bail!("has {count} slices, so there is no slice {}", slice + 1))
}

/// Rows of `width` values to columns.
fn transpose(values: &[f32], width: usize, turned: &mut Vec<f32>) {
    let height = values.len() / width;
    turned.resize(values.len(), 0.0);
    for (y, row) in values.chunks_exact(width).enumerate() {
        row.iter().enumerate().for_each(|(x, v)| turned[x * height + y] = *v);
    }
}

/// Slices that are planes of the file, or lie between two: only those are read, each once, in rising order.
fn whole_planes(
    volume: &mut Volume,
    places: &[Between],
    seen: &mut Seen,
    done: &mut impl FnMut(usize, &[f32]),
) -> Result<()> {
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by_key(|&index| places[index].first);
    // The two planes read last.
    let mut held = [(usize::MAX, Vec::new()), (usize::MAX, Vec::new())];
    let mut blend = Vec::new();
    for index in order {
        let Between { first, second, share } = places[index];
        let needed = if share == 0.0 { [first, first] } else { [first, second] };
        for k in needed {
            if held.iter().all(|(at, _)| *at != k) {
                held.swap(0, 1);
                volume.planes.read(k, &mut held[1].1)?;
                held[1].0 = k;
                seen.add(&held[1].1);
            }
        }
        let plane = |k: usize| held.iter().find(|(at, _)| *at == k).map_or(&[][..], |(_, plane)| plane);
        if share == 0.0 {
            done(index, plane(first));
        } else {
            blend.clear();
            blend.extend(plane(first).iter().zip(plane(second)).map(|(a, b)| a + (b - a) * share));
            done(index, &blend);
        }
    }
    Ok(())
}

/// Slices across the planes of the file: a line of each.
fn lines_of_planes(
    volume: &mut Volume,
    axis: usize,
    places: &[Between],
    seen: &mut Seen,
    done: &mut impl FnMut(usize, &[f32]),
) -> Result<()> {
    let [width, _, planes] = volume.geometry.shape;
    let length = volume.geometry.shape[1 - axis];
    let mut slices: Vec<Vec<f32>> = places.iter().map(|_| Vec::with_capacity(length * planes)).collect();
    let mut plane = Vec::new();
    for k in 0..planes {
        volume.planes.read(k, &mut plane)?;
        seen.add(&plane);
        for (slice, Between { first, second, share }) in slices.iter_mut().zip(places) {
            if axis == 1 {
                let (a, b) = (&plane[first * width..][..width], &plane[second * width..][..width]);
                slice.extend(a.iter().zip(b).map(|(a, b)| a + (b - a) * share));
            } else {
                slice.extend(plane.chunks_exact(width).map(|row| row[*first] + (row[*second] - row[*first]) * share));
            }
        }
    }
    slices.iter().enumerate().for_each(|(index, slice)| done(index, slice));
    Ok(())
}
