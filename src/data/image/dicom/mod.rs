//! DICOM files to 8-bit pictures as a viewer shows them.
//!
//! Reads what is needed to show a frame and nothing else: no name, number or date of a patient is looked at, and no
//! message holds a value of an element.

mod bits;
mod display;
mod elements;
mod file;
mod frame;
mod frames;
mod jpeg_2000;
mod jpeg_ls;
mod lut;
mod place;
mod recent;
mod rle;
mod syntax;
mod tags;
mod values;
mod walk;

use anyhow::Result;

pub use file::is_dicom;
pub(in crate::data) use frames::{Frames, HEADS};
pub use place::Place;
pub(in crate::data) use place::{place, place_at_start, places};
pub use syntax::{unread_syntax, unread_syntaxes};
pub use values::Frame;

use super::picture::Picture;
use file::DicomFile;

/// A frame as a viewer shows it, frames counted from 0: gray with its first window (else its VOI lookup table, else
/// from the 0.5th to the 99.5th percentile), RGB for colour. Rescaling and window are the frame's own where an enhanced
/// file gives each its own. Overlays are left out; padding is black; pixels that are not square stay as they are.
///
/// # Errors
/// Broken, a frame that is not there, a transfer syntax that is not read, more pixels than any image has, more bytes
/// than may be taken.
pub fn decode(bytes: &[u8], frame: usize) -> Result<Picture> {
    let file = DicomFile::open(bytes)?;
    let object = file.object()?;
    let values = frame::read(&object, &file, frame)?;
    display::picture(&object, values, frame)
}

/// Pixel values of a frame before any lookup table or window; colour as RGB.
///
/// # Errors
/// As [`decode`].
pub fn stored(bytes: &[u8], frame: usize) -> Result<Frame> {
    let file = DicomFile::open(bytes)?;
    let object = file.object()?;
    let frame = frame::read(&object, &file, frame)?;
    display::as_rgb(&object, frame)
}

/// SOP Instance UID, as the file's head names it: an identifier, to be held against what was asked for.
///
/// # Errors
/// No DICOM file, or broken.
pub(in crate::data) fn instance_of(bytes: &[u8]) -> Result<Option<String>> {
    file::instance(bytes)
}

/// Whether the file says that names or numbers stand in its pixels; `None` where it says nothing.
///
/// # Errors
/// Broken.
pub fn burned_in(bytes: &[u8]) -> Result<Option<bool>> {
    let file = DicomFile::open(bytes)?;
    Ok(match file.object()?.text(tags::BURNED_IN_ANNOTATION).as_deref() {
        Some("YES") => Some(true),
        Some("NO") => Some(false),
        _ => None,
    })
}
