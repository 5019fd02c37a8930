//! Pictures to files: thumbnails of pages, copies of a data set.

use anyhow::Result;

use super::jpeg;
use super::picture::Picture;
use super::resize::{Filter, resize};

/// A JPEG of the picture, its longer side at most `side` pixels.
///
/// # Errors
/// It cannot be encoded.
pub fn thumbnail(picture: &Picture, side: u32) -> Result<Vec<u8>> {
    let size = scaled(picture, side, picture.width.max(picture.height));
    jpeg::encode(&resize(picture, size, Filter::Box)?, 80)
}

/// The picture's gray values (ITU-R BT.709's weights), scaled to a square of `side` pixels.
///
/// # Errors
/// It cannot be scaled.
pub fn gray_of_side(picture: &Picture, side: u32) -> Result<Vec<u8>> {
    let square = resize(picture, (side, side), Filter::Bicubic)?;
    if square.channels == 1 {
        return Ok(square.bytes);
    }
    let gray = |p: &[u8]| ((2126 * u32::from(p[0]) + 7152 * u32::from(p[1]) + 722 * u32::from(p[2])) / 10_000) as u8;
    Ok(square.bytes.chunks_exact(3).map(gray).collect())
}

/// A JPEG of the picture with its shorter side at most `size` pixels.
///
/// # Errors
/// It cannot be encoded.
pub fn reduced(picture: &Picture, size: Option<u32>) -> Result<Vec<u8>> {
    let shorter = picture.width.min(picture.height);
    match size {
        Some(size) if size < shorter => {
            jpeg::encode(&resize(picture, scaled(picture, size, shorter), Filter::Bicubic)?, 95)
        }
        _ => jpeg::encode(picture, 95),
    }
}

/// Width and height when `of` of the picture's pixels become `to`, which is never more.
fn scaled(picture: &Picture, to: u32, of: u32) -> (u32, u32) {
    let (to, of) = (u64::from(to.min(of)), u64::from(of).max(1));
    let side = |side: u32| (((u64::from(side) * to + of / 2) / of) as u32).max(1);
    (side(picture.width), side(picture.height))
}
