//! JPEG files, baseline, progressive and lossless, by the decoder that DICOM's pixels need too.
//!
//! Against Pillow 13 (libjpeg-turbo): gray within 1 of 255; colour within 3 whole or halved both ways (4:4:4, 4:2:0),
//! within 5 halved across (4:2:2), each on noise, the worst there is; CMYK within 1; tests/it/data_parity.rs.
//! zune-jpeg, tried as the other decoder, was up to 27 (4:2:0) and 49 (4:2:2) away in images of 1,000 columns, and has
//! no lossless process.

use anyhow::{Context, Result, bail, ensure};
use jpeg_decoder::{Decoder, PixelFormat};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::exif;
use super::picture::{MAX_BYTES, Picture, bounded};

/// How each JPEG begins.
pub(super) const SIGNATURE: &[u8] = &[0xff, 0xd8, 0xff];

/// Pixels and Exif's orientation.
///
/// # Errors
/// Broken, truncated, more pixels than any image has.
pub(super) fn decode(bytes: &[u8]) -> Result<(Picture, u16)> {
    ensure!(is_whole(bytes), "is truncated: it has no end-of-image mark");
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(MAX_BYTES as usize);
    decoder.read_info().context("cannot be decoded")?;
    let info = decoder.info().context("cannot be decoded: it has no header")?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    bounded(width, height)?;
    let pixels = decoder.decode().context("cannot be decoded; is it truncated?")?;
    let (channels, bytes) = match info.pixel_format {
        PixelFormat::L8 => (1, pixels),
        PixelFormat::RGB24 => (3, pixels),
        PixelFormat::CMYK32 => {
            (3, pixels.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]].map(|c| ink(c, p[3]))).collect())
        }
        PixelFormat::L16 => bail!("is a JPEG of more than 8 bits a value, which is read only inside DICOM"),
    };
    let orientation = decoder.exif_data().map_or(1, exif::orientation);
    Ok((Picture { width, height, channels, bytes }, orientation))
}

/// One of cyan, magenta and yellow with black: its light, as Pillow's conversion to RGB has it.
fn ink(colour: u8, black: u8) -> u8 {
    let light = 255 - u16::from(black);
    (light - (u16::from(colour) * light + 127) / 255) as u8
}

/// Whether an end-of-image mark follows the picture's own data: the decoder may fill what is missing with gray and say
/// nothing. Marks inside segments before the data, such as a thumbnail's, do not count.
fn is_whole(bytes: &[u8]) -> bool {
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

/// A JPEG of the picture, its colours at full size.
///
/// # Errors
/// More than 65,535 pixels a side, or none.
pub(super) fn encode(picture: &Picture, quality: u8) -> Result<Vec<u8>> {
    let (width, height) = (u16::try_from(picture.width)?, u16::try_from(picture.height)?);
    let colour = if picture.channels == 1 { ColorType::Luma } else { ColorType::Rgb };
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, quality);
    encoder.set_sampling_factor(SamplingFactor::F_1_1);
    encoder.encode(&picture.bytes, width, height, colour).context("cannot be written as JPEG")?;
    Ok(bytes)
}
