//! Where a frame lies in the patient, and how its values are rescaled: what a volume is made of (PS3.3 C.7.6.2,
//! C.7.6.16.2).

use anyhow::{Context, Result};

use super::display::{line_of, nearest_of};
use super::elements::Object;
use super::file::DicomFile;
use super::tags::{self, Tag};

/// Groups of frames that are looked into; more are looked for one by one.
const MOST_GROUPS: usize = 1 << 15;

/// Where a frame lies. Directions and positions are DICOM's: x to the left, y to the back, z to the head.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Frames of the file.
    pub frames: usize,
    /// Rows and columns of pixels.
    pub size: [usize; 2],
    /// Which series the file is of; an identifier, to be compared and not shown.
    pub series: Option<String>,
    /// Centre of the first pixel, millimetres.
    pub position: Option<[f64; 3]>,
    /// Unit steps from column to column, and from row to row.
    pub directions: Option<[[f64; 3]; 2]>,
    /// Millimetres from row to row, and from column to column.
    pub spacing: Option<[f64; 2]>,
    /// Whether its pixels are colours, which no window fits.
    pub is_colour: bool,
    /// Whether its lowest values are white (MONOCHROME1).
    pub is_inverted: bool,
}

/// Where the first frame lies, by the elements before the pixels; `bytes` may end among the pixels.
///
/// # Errors
/// Broken.
pub(in crate::data) fn place(bytes: &[u8]) -> Result<Place> {
    let file = DicomFile::open(bytes)?;
    let all = places_in(&file.object_without_pixels()?, 1)?;
    all.into_iter().next().context("has no frames")
}

/// Whether a file's beginning holds all elements before the pixels, which then begin in it.
pub(in crate::data) fn reaches_pixels(bytes: &[u8]) -> bool {
    DicomFile::open(bytes).is_ok_and(|file| file.reaches_pixels())
}

/// Where each of so many frames lies.
///
/// # Errors
/// Broken.
pub(in crate::data) fn places(bytes: &[u8], frames: usize) -> Result<Vec<Place>> {
    let file = DicomFile::open(bytes)?;
    places_in(&file.object_without_pixels()?, frames)
}

/// The groups of all frames are looked for once: a search for each would go through them from the first.
fn places_in(object: &Object, frames: usize) -> Result<Vec<Place>> {
    let (own, shared) = (object.items(tags::FRAME_GROUPS, frames)?, object.item(tags::SHARED_GROUPS, 0)?);
    (0..frames).map(|index| place_in(object, [own.get(index), shared.as_ref()])).collect()
}

fn place_in(object: &Object, groups: [Option<&Object>; 2]) -> Result<Place> {
    let numbers = |group: Tag, tag: Tag| {
        nearest_of(groups, object, group, |place| Ok(Some(place.numbers(tag)).filter(|all| !all.is_empty())))
    };
    let position = numbers(tags::PLANE_POSITION, tags::POSITION)?.and_then(|all| all.try_into().ok());
    let directions = numbers(tags::PLANE_ORIENTATION, tags::DIRECTIONS)?;
    let directions = directions.and_then(|all| <[f64; 6]>::try_from(all).ok());
    let spacing = numbers(tags::PIXEL_MEASURES, tags::SPACING)?.and_then(|all| all.try_into().ok());
    Ok(Place {
        frames: object.number(tags::FRAMES).map_or(1, |n| (n as usize).max(1)),
        size: [object.count(tags::ROWS, "Rows")?, object.count(tags::COLUMNS, "Columns")?],
        series: object.text(tags::SERIES),
        position,
        directions: directions.map(|[a, b, c, d, e, f]| [[a, b, c], [d, e, f]]),
        spacing,
        is_colour: object.text(tags::PHOTOMETRIC).is_some_and(|kind| !kind.starts_with("MONOCHROME")),
        is_inverted: object.text(tags::PHOTOMETRIC).is_some_and(|kind| kind == "MONOCHROME1"),
    })
}

/// Slope and intercept of each frame with a group of its own.
pub(super) fn lines_of(object: &Object) -> Result<Vec<(f64, f64)>> {
    let shared = object.item(tags::SHARED_GROUPS, 0)?;
    let own = object.items(tags::FRAME_GROUPS, MOST_GROUPS)?;
    let line = |own: &Object| nearest_of([Some(own), shared.as_ref()], object, tags::PIXEL_TRANSFORM, line_of);
    own.iter().map(|own| Ok(line(own)?.unwrap_or((1.0, 0.0)))).collect()
}
