//! Pictures to JPEG and PNG bytes: thumbnails of pages, copies of a data set.

use anyhow::{Context, Result};
use image::DynamicImage;

use super::picture::Picture;

/// A JPEG of the picture, its longer side at most `side` pixels.
///
/// # Errors
/// It cannot be encoded.
pub fn thumbnail(picture: &Picture, side: u32) -> Result<Vec<u8>> {
    jpeg(&dynamic(picture)?.thumbnail(side, side), 80)
}

/// The picture's gray values, scaled to a square of `side` pixels.
///
/// # Errors
/// It cannot be scaled.
pub fn gray_of_side(picture: &Picture, side: u32) -> Result<Vec<u8>> {
    let scaled = dynamic(picture)?.resize_exact(side, side, image::imageops::FilterType::CatmullRom);
    Ok(scaled.into_luma8().into_raw())
}

/// A PNG of a square of `side` pixels, three bytes each.
///
/// # Errors
/// Another number of bytes.
pub fn png(side: u32, rgb: &[u8]) -> Result<Vec<u8>> {
    let picture = image::RgbImage::from_raw(side, side, rgb.to_vec()).context("a picture of another size")?;
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png)?;
    Ok(bytes.into_inner())
}

/// A JPEG of the picture with its shorter side at most `size` pixels.
///
/// # Errors
/// It cannot be encoded.
pub fn reduced(picture: &Picture, size: Option<u32>) -> Result<Vec<u8>> {
    let whole = dynamic(picture)?;
    let shorter = picture.width.min(picture.height);
    let size = size.unwrap_or(shorter);
    if shorter <= size {
        return jpeg(&whole, 95);
    }
    let scaled = |side: u32| ((u64::from(side) * u64::from(size) + u64::from(shorter) / 2) / u64::from(shorter)) as u32;
    let (width, height) = (scaled(picture.width), scaled(picture.height));
    jpeg(&whole.resize_exact(width, height, image::imageops::FilterType::CatmullRom), 95)
}

fn dynamic(picture: &Picture) -> Result<DynamicImage> {
    let (width, height, bytes) = (picture.width, picture.height, picture.bytes.clone());
    let whole = match picture.channels {
        1 => image::GrayImage::from_raw(width, height, bytes).map(DynamicImage::from),
        _ => image::RgbImage::from_raw(width, height, bytes).map(DynamicImage::from),
    };
    whole.context("has fewer pixels than it says")
}

fn jpeg(image: &DynamicImage, quality: u8) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    image.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality))?;
    Ok(bytes)
}
