//! Image files to 8-bit pixels, gray or RGB: PNG, JPEG, DICOM.

use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, ImageReader};

use super::dicom;
use super::picture::{MAX_BYTES, MAX_SIDE, Picture};

/// Largest image file, DICOM with many frames included.
const MAX_FILE: u64 = 1 << 30;

/// Reads DICOM as [`dicom::decode`] does, the first frame unless `#N` behind the name says which, and PNG or JPEG: gray,
/// palette, RGB, with or without alpha, 8 or 16 bits. Alpha is laid over white and 16 bits are scaled to 8, both as
/// transformers 5 does (16-bit gray, which Pillow would clip, as `round(v / 257)`). The camera's orientation mark is
/// obeyed.
///
/// # Errors
/// Not an image, truncated, or claiming more than 30,000 pixels a side.
pub fn read(path: &Path) -> Result<Picture> {
    file_bytes(path).and_then(|bytes| decode(&bytes, frame_of(path).1)).with_context(|| path.display().to_string())
}

/// `x.dcm#3` is the third frame of x.dcm: the file, and the frame from 0.
pub(in crate::data) fn frame_of(path: &Path) -> (PathBuf, usize) {
    let text = path.to_string_lossy();
    let named = text.rsplit_once('#').and_then(|(file, number)| Some((file, number.parse::<usize>().ok()?)));
    match named {
        // A file may be called that.
        Some((file, number)) if number > 0 && !path.exists() => (file.into(), number - 1),
        _ => (path.to_path_buf(), 0),
    }
}

/// Content of an image file, up to 1 GiB.
pub(in crate::data) fn file_bytes(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(frame_of(path).0)?;
    let len = file.metadata()?.len();
    ensure!(len <= MAX_FILE, "has {len} bytes; allowed are {MAX_FILE}");
    let mut bytes = Vec::with_capacity(len as usize);
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE), &mut bytes)?;
    Ok(bytes)
}

/// [`read`] for bytes in memory; `frame`, from 0, is for DICOM, other files have one.
///
/// # Errors
/// As there.
pub fn decode(bytes: &[u8], frame: usize) -> Result<Picture> {
    ensure!(!bytes.is_empty(), "is empty");
    ensure!(!is_lfs_pointer(bytes), "is a Git LFS pointer, not an image; run `git lfs pull`");
    if dicom::is_dicom(bytes) {
        return dicom::decode(bytes, frame);
    }
    let mut reader = ImageReader::new(BufReader::new(Cursor::new(bytes))).with_guessed_format()?;
    if reader.format().is_none() {
        bail!("is not an image that can be read; known are PNG, JPEG and DICOM");
    }
    if reader.format() == Some(ImageFormat::Jpeg) {
        ensure!(jpeg_is_whole(bytes), "is truncated: it has no end-of-image mark");
    }
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().context("cannot be decoded")?;
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).context("cannot be decoded; is it truncated?")?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    let (channels, bytes) = match image.color() {
        ColorType::L8 | ColorType::L16 => (1, image.into_luma8().into_raw()),
        color if color.has_alpha() => (3, over_white(&image)),
        _ => (3, image.into_rgb8().into_raw()),
    };
    Ok(Picture { width, height, channels, bytes })
}

/// Whether a file holds no image, but says where Git LFS has it.
pub(in crate::data) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs")
}

/// Whether an end-of-image mark follows the picture's own data: the decoder fills what is missing with gray and says
/// nothing. Marks inside segments before the data, such as a thumbnail's, do not count.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut at = 2;
    while let [0xff, marker, high, low, ..] = bytes.get(at..).unwrap_or_default() {
        at += 2 + usize::from(u16::from_be_bytes([*high, *low]));
        if *marker == START_OF_SCAN {
            return bytes.get(at..).unwrap_or_default().windows(2).any(|w| w == [0xff, 0xd9]);
        }
    }
    // Fill bytes or an odd header: leave the verdict to the decoder.
    true
}

fn over_white(image: &DynamicImage) -> Vec<u8> {
    let blend = |c: u8, a: u8| {
        let (c, a) = (u32::from(c), u32::from(a));
        ((c * a + 255 * (255 - a) + 127) / 255) as u8
    };
    let rgba = image.to_rgba8();
    rgba.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]].map(|c| blend(c, p.0[3]))).collect()
}
