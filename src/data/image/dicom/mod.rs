//! DICOM files to 8-bit pictures as a viewer shows them.
//!
//! Reads what is needed to show a frame and nothing else: no name, number or date of a patient is looked at, and no
//! message holds a value of an element.

mod display;
mod frame;
mod jpeg_ls;
mod lut;

use anyhow::{Context, Result, anyhow, ensure};
use dicom_core::Tag;
use dicom_core::value::Value;
use dicom_object::{DefaultDicomObject, InMemDicomObject, OpenFileOptions};

pub use frame::Frame;

use super::picture::Picture;
use crate::error::caught;

/// The elements that are read.
pub(super) mod tags {
    use dicom_core::Tag;

    pub const BURNED_IN_ANNOTATION: Tag = Tag(0x0028, 0x0301);
    pub const SAMPLES: Tag = Tag(0x0028, 0x0002);
    pub const PHOTOMETRIC: Tag = Tag(0x0028, 0x0004);
    pub const PLANAR: Tag = Tag(0x0028, 0x0006);
    pub const FRAMES: Tag = Tag(0x0028, 0x0008);
    pub const ROWS: Tag = Tag(0x0028, 0x0010);
    pub const COLUMNS: Tag = Tag(0x0028, 0x0011);
    pub const BITS_ALLOCATED: Tag = Tag(0x0028, 0x0100);
    pub const BITS_STORED: Tag = Tag(0x0028, 0x0101);
    pub const REPRESENTATION: Tag = Tag(0x0028, 0x0103);
    pub const PADDING: Tag = Tag(0x0028, 0x0120);
    pub const PADDING_LIMIT: Tag = Tag(0x0028, 0x0121);
    pub const WINDOW_CENTER: Tag = Tag(0x0028, 0x1050);
    pub const WINDOW_WIDTH: Tag = Tag(0x0028, 0x1051);
    pub const INTERCEPT: Tag = Tag(0x0028, 0x1052);
    pub const SLOPE: Tag = Tag(0x0028, 0x1053);
    pub const VOI_FUNCTION: Tag = Tag(0x0028, 0x1056);
    pub const PALETTES: [(Tag, Tag); 3] = [
        (Tag(0x0028, 0x1101), Tag(0x0028, 0x1201)),
        (Tag(0x0028, 0x1102), Tag(0x0028, 0x1202)),
        (Tag(0x0028, 0x1103), Tag(0x0028, 0x1203)),
    ];
    pub const MODALITY_LUTS: Tag = Tag(0x0028, 0x3000);
    pub const LUT_DESCRIPTOR: Tag = Tag(0x0028, 0x3002);
    pub const LUT_DATA: Tag = Tag(0x0028, 0x3006);
    pub const VOI_LUTS: Tag = Tag(0x0028, 0x3010);
    pub const SHARED_GROUPS: Tag = Tag(0x5200, 0x9229);
    pub const FRAME_GROUPS: Tag = Tag(0x5200, 0x9230);
    pub const PIXEL_TRANSFORM: Tag = Tag(0x0028, 0x9145);
    pub const FRAME_VOI: Tag = Tag(0x0028, 0x9132);
    pub const PIXELS: Tag = Tag(0x7fe0, 0x0010);
}

/// Whether `bytes` are a DICOM file.
pub fn is_dicom(bytes: &[u8]) -> bool {
    bytes.get(128..132) == Some(b"DICM")
}

/// A frame as a viewer shows it, frames counted from 0: gray with its first window (else its VOI lookup table, else from
/// the 0.5th to the 99.5th percentile), RGB for colour. Rescaling and window are the frame's own where an enhanced file
/// gives each its own. Overlays are left out; padding is black; pixels that are not
/// square stay as they are.
///
/// # Errors
/// Broken, a frame that is not there, a transfer syntax that is not read, more pixels than any image has.
pub fn decode(bytes: &[u8], frame: usize) -> Result<Picture> {
    let object = open(bytes)?;
    let values = frame::read(&object, frame)?;
    display::picture(&object, &values, frame)
}

/// Pixel values of a frame before any lookup table or window; colour as RGB.
///
/// # Errors
/// As [`decode`].
pub fn stored(bytes: &[u8], frame: usize) -> Result<Frame> {
    let object = open(bytes)?;
    let frame = frame::read(&object, frame)?;
    display::as_rgb(&object, frame)
}

/// Whether the file says that names or numbers stand in its pixels; `None` where it says nothing.
///
/// # Errors
/// Broken.
pub fn burned_in(bytes: &[u8]) -> Result<Option<bool>> {
    let object = caught(|| OpenFileOptions::new().read_until(tags::PIXELS).from_reader(whole(bytes)?).map_err(broken))?;
    Ok(match text(&object, tags::BURNED_IN_ANNOTATION).as_deref() {
        Some("YES") => Some(true),
        Some("NO") => Some(false),
        _ => None,
    })
}

fn open(bytes: &[u8]) -> Result<DefaultDicomObject> {
    caught(|| OpenFileOptions::new().from_reader(whole(bytes)?).map_err(broken))
}

fn whole(bytes: &[u8]) -> Result<&[u8]> {
    ensure!(is_dicom(bytes), "is no DICOM file: DICM does not stand at byte 128");
    Ok(bytes)
}

/// The library's message may hold a value of the file.
fn broken<E>(_: E) -> anyhow::Error {
    anyhow!("is broken or truncated DICOM")
}

fn value(object: &InMemDicomObject, tag: Tag) -> Option<&Value<InMemDicomObject>> {
    object.element_opt(tag).ok().flatten().map(|e| e.value())
}

fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let text = value(object, tag)?.to_str().ok()?;
    let text = text.trim_matches([' ', '\0']);
    (!text.is_empty()).then(|| text.to_string())
}

/// The first of the element's numbers.
fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    numbers(object, tag).first().copied()
}

fn numbers(object: &InMemDicomObject, tag: Tag) -> Vec<f64> {
    let all = value(object, tag).and_then(|v| v.to_multi_float64().ok()).unwrap_or_default();
    all.into_iter().take_while(|n| n.is_finite()).collect()
}

fn count(object: &InMemDicomObject, tag: Tag, name: &str) -> Result<usize> {
    let n = number(object, tag).with_context(|| format!("{name} is missing"))?;
    ensure!((0.0..=4_294_967_295.0).contains(&n), "{name} is out of bounds");
    Ok(n as usize)
}

/// An item of a sequence, counted from 0.
fn item(object: &InMemDicomObject, tag: Tag, index: usize) -> Option<&InMemDicomObject> {
    value(object, tag)?.items()?.get(index)
}
