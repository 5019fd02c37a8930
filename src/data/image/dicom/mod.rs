//! DICOM files to 8-bit pictures as a viewer shows them.
//!
//! Reads what is needed to show a frame and nothing else: no name, number or date of a patient is looked at, and no
//! message holds a value of an element.

mod display;
mod elements;
mod frame;
mod jpeg_ls;
mod lut;

use std::io::{ErrorKind, Read};

use anyhow::{Result, anyhow, ensure};
use dicom_object::{DefaultDicomObject, OpenFileOptions};

pub use frame::Frame;

use elements::{tags, text};

use super::picture::Picture;
use crate::error::caught;

/// Whether `bytes` are a DICOM file.
pub fn is_dicom(bytes: &[u8]) -> bool {
    bytes.get(128..132) == Some(b"DICM")
}

/// A frame as a viewer shows it, frames counted from 0: gray with its first window (else its VOI lookup table, else
/// from the 0.5th to the 99.5th percentile), RGB for colour. Rescaling and window are the frame's own where an enhanced
/// file gives each its own. Overlays are left out; padding is black; pixels that are not square stay as they are.
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
    caught(|| OpenFileOptions::new().from_reader(UpToEnd(whole(bytes)?)).map_err(broken))
}

/// Bytes whose end is an error: where a fragment of compressed pixels says that it is longer, the library would else
/// take what is there for all of it.
struct UpToEnd<'a>(&'a [u8]);

impl Read for UpToEnd<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() && !into.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.0.read(into)
    }
}

fn whole(bytes: &[u8]) -> Result<&[u8]> {
    ensure!(is_dicom(bytes), "is no DICOM file: DICM does not stand at byte 128");
    Ok(bytes)
}

/// The library's message may hold a value of the file.
fn broken<E>(_: E) -> anyhow::Error {
    anyhow!("is broken or truncated DICOM")
}
