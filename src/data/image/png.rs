//! PNG files of every kind to 8 bits; pictures to PNG.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Limits, Transformations};

use super::exif;
use super::picture::{MAX_BYTES, Picture, bounded};

/// How each PNG begins.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Pixels and Exif's orientation. Alpha is laid over white.
///
/// # Errors
/// Broken, truncated, more pixels than any image has.
pub(super) fn decode(bytes: &[u8]) -> Result<(Picture, u16)> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_BYTES as usize });
    // Palettes to colours, fewer than 8 bits to 8, a transparent colour to alpha.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().context("cannot be decoded")?;
    bounded(reader.info().width, reader.info().height)?;
    let size = reader.output_buffer_size().filter(|&size| size as u64 <= MAX_BYTES);
    let mut pixels = vec![0; size.with_context(|| format!("takes more than {} MiB", MAX_BYTES >> 20))?];
    let frame = reader.next_frame(&mut pixels).context("cannot be decoded; is it truncated?")?;
    let orientation = reader.info().exif_metadata.as_deref().map_or(1, exif::orientation);
    pixels.truncate(frame.buffer_size());
    if frame.bit_depth == BitDepth::Sixteen {
        pixels = pixels.chunks_exact(2).map(|b| eight_bits(u16::from_be_bytes([b[0], b[1]]))).collect();
    }
    let (channels, bytes) = match frame.color_type {
        ColorType::Grayscale | ColorType::Indexed => (1, pixels),
        ColorType::GrayscaleAlpha => (1, over_white(&pixels, 1)),
        ColorType::Rgb => (3, pixels),
        ColorType::Rgba => (3, over_white(&pixels, 3)),
    };
    let (width, height) = (frame.width, frame.height);
    ensure!(bytes.len() == width as usize * height as usize * channels, "has fewer pixels than it says");
    Ok((Picture { width, height, channels, bytes }, orientation))
}

/// `round(v / 257)`
fn eight_bits(value: u16) -> u8 {
    ((u32::from(value) + 128) / 257) as u8
}

/// Pixels of `colours` values and alpha, without it.
fn over_white(pixels: &[u8], colours: usize) -> Vec<u8> {
    let blend = |colour: u8, alpha: u8| {
        let (colour, alpha) = (u32::from(colour), u32::from(alpha));
        ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    pixels.chunks_exact(colours + 1).flat_map(|p| p[..colours].iter().map(|&c| blend(c, p[colours]))).collect()
}

/// A PNG of the picture.
///
/// # Errors
/// It has no pixels, or fewer than it says.
pub fn encode(picture: &Picture) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, picture.width, picture.height);
    encoder.set_color(if picture.channels == 1 { ColorType::Grayscale } else { ColorType::Rgb });
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    let mut writer = encoder.write_header().context("cannot be written as PNG")?;
    writer.write_image_data(&picture.bytes).context("cannot be written as PNG")?;
    writer.finish().context("cannot be written as PNG")?;
    Ok(bytes)
}
