//! PNG files of every kind to 8 bits; pictures to PNG.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Limits, Transformations};

use super::budget::afford;
use super::exif;
use super::picture::{Picture, bounded};

/// How each PNG begins.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// What the decoder may take beside the picture: lines, palette, Exif.
const MOST_ASIDE: usize = 16 << 20;

/// Pixels and Exif's orientation. Alpha is laid over gray of `background`.
///
/// # Errors
/// Broken, truncated, more pixels than any image has, more bytes than may be taken.
pub(super) fn decode(bytes: &[u8], background: u8) -> Result<(Picture, u16)> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MOST_ASIDE });
    // They may be compressed, and nobody reads them.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes to colours, fewer than 8 bits to 8, a transparent colour to alpha.
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().context("cannot be decoded")?;
    bounded(reader.info().width, reader.info().height)?;
    let size = reader.output_buffer_size().context("has more pixels than can be counted")?;
    afford(size as u64 + MOST_ASIDE as u64)?;
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).context("cannot be decoded; is it truncated?")?;
    let orientation = reader.info().exif_metadata.as_deref().map_or(1, exif::orientation);
    pixels.truncate(frame.buffer_size());
    if frame.bit_depth == BitDepth::Sixteen {
        to_eight_bits(&mut pixels);
    }
    let channels = match frame.color_type {
        ColorType::Grayscale | ColorType::Indexed => 1,
        ColorType::GrayscaleAlpha => over::<1>(background, &mut pixels),
        ColorType::Rgb => 3,
        ColorType::Rgba => over::<3>(background, &mut pixels),
    };
    pixels.shrink_to_fit();
    let (width, height) = (frame.width, frame.height);
    ensure!(pixels.len() == width as usize * height as usize * channels, "has fewer pixels than it says");
    Ok((Picture { width, height, channels, bytes: pixels }, orientation))
}

/// Values of two bytes to one, where they stand: a copy would take half as much again.
fn to_eight_bits(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 2;
    for i in 0..count {
        pixels[i] = eight_bits(u16::from_be_bytes([pixels[2 * i], pixels[2 * i + 1]]));
    }
    pixels.truncate(count);
}

/// `round(v / 257)`
fn eight_bits(value: u16) -> u8 {
    ((u32::from(value) + 128) / 257) as u8
}

/// Pixels of some colours and alpha lose it, where they stand; gives the number of colours.
fn over<const COLOURS: usize>(background: u8, pixels: &mut Vec<u8>) -> usize {
    let blend = |colour: u8, alpha: u8| {
        let (colour, alpha, background) = (u32::from(colour), u32::from(alpha), u32::from(background));
        ((colour * alpha + background * (255 - alpha) + 127) / 255) as u8
    };
    let count = pixels.len() / (COLOURS + 1);
    for i in 0..count {
        let alpha = pixels[i * (COLOURS + 1) + COLOURS];
        for c in 0..COLOURS {
            pixels[i * COLOURS + c] = blend(pixels[i * (COLOURS + 1) + c], alpha);
        }
    }
    pixels.truncate(count * COLOURS);
    COLOURS
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
