//! Where a frame lies in the patient, and how its values are rescaled: what a volume is made of (PS3.3 C.7.6.2,
//! C.7.6.16.2).

use anyhow::{Context, Result};

use super::bits;
use super::display::nearest_of;
use super::elements::Object;
use super::file::DicomFile;
use super::tags::{self, Tag};

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
    first(DicomFile::open(bytes)?.before_pixels()?.0)
}

/// [`place`] of a file's beginning; `None` where that may not hold all elements before the pixels.
pub(in crate::data) fn place_at_start(bytes: &[u8]) -> Option<Result<Place>> {
    let file = DicomFile::open(bytes).ok()?;
    let (object, pixels) = file.before_pixels().ok()?;
    pixels.map(|_| first(object))
}

fn first(object: Object) -> Result<Place> {
    places_in(object, 1)?.into_iter().next().context("has no frames")
}

/// Where each of so many frames lies.
///
/// # Errors
/// Broken.
pub(in crate::data) fn places(bytes: &[u8], frames: usize) -> Result<Vec<Place>> {
    places_in(DicomFile::open(bytes)?.before_pixels()?.0, frames)
}

/// The groups of all frames are looked for once: a search for each would go through them from the first.
fn places_in(object: Object, frames: usize) -> Result<Vec<Place>> {
    let object = object.with_groups(frames);
    let shared = object.item(tags::SHARED_GROUPS, 0)?;
    let place = |index| {
        let own = object.item(tags::FRAME_GROUPS, index)?;
        place_in(&object, [own.as_ref(), shared.as_ref()])
    };
    (0..frames).map(place).collect()
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
        frames: bits::frames(object)?,
        size: [object.count(tags::ROWS, "Rows")?, object.count(tags::COLUMNS, "Columns")?],
        series: object.text(tags::SERIES),
        position,
        directions: directions.map(|[a, b, c, d, e, f]| [[a, b, c], [d, e, f]]),
        spacing,
        is_colour: object.text(tags::PHOTOMETRIC).is_some_and(|kind| !kind.starts_with("MONOCHROME")),
        is_inverted: object.text(tags::PHOTOMETRIC).is_some_and(|kind| kind == "MONOCHROME1"),
    })
}
