//! JPEG files, baseline, progressive and lossless, by the decoder that DICOM's pixels need too.
//!
//! Against Pillow 13 (libjpeg-turbo): gray within 1 of 255; colour within 3 whole or halved both ways (4:4:4, 4:2:0),
//! within 5 halved across (4:2:2), each on noise, the worst there is; CMYK within 1; tests/it/data_parity.rs.
//! zune-jpeg, tried as the other decoder, was up to 27 (4:2:0) and 49 (4:2:2) away in images of 1,000 columns, and has
//! no lossless process.

use anyhow::{Context, Result, bail, ensure};
use jpeg_decoder::{Decoder, PixelFormat};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::budget::{afford, most};
use super::exif;
use super::jpeg_header::JpegHeader;
use super::picture::{Picture, bounded};

/// How each JPEG begins.
pub(super) const SIGNATURE: &[u8] = &[0xff, 0xd8, 0xff];

/// Pixels and Exif's orientation.
///
/// # Errors
/// Broken, truncated, more pixels than any image has or its bytes can hold, more bytes than may be taken.
pub(super) fn decode(bytes: &[u8]) -> Result<(Picture, u16)> {
    let header = JpegHeader::read(bytes).context("cannot be decoded")?;
    ensure!(header.is_whole, "is truncated: it has no end-of-image mark");
    let (width, height) = header.size();
    bounded(width, height)?;
    afford(header.need())?;
    header.check_claims()?;
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(most() as usize);
    let mut pixels = decoder.decode().context("cannot be decoded; is it truncated?")?;
    let info = decoder.info().context("cannot be decoded: it has no header")?;
    let channels = match info.pixel_format {
        PixelFormat::L8 => 1,
        PixelFormat::RGB24 => 3,
        PixelFormat::CMYK32 => {
            of_inks(&mut pixels);
            3
        }
        PixelFormat::L16 => bail!("is a JPEG of more than 8 bits a value, which is read only inside DICOM"),
    };
    let orientation = decoder.exif_data().map_or(1, exif::orientation);
    let of_header = (u32::from(info.width), u32::from(info.height));
    ensure!(of_header == (width, height), "cannot be decoded: it has two headers");
    Ok((Picture { width, height, channels, bytes: pixels }, orientation))
}

/// One of cyan, magenta and yellow with black: its light, as Pillow's conversion to RGB has it.
fn ink(colour: u8, black: u8) -> u8 {
    let light = 255 - u16::from(black);
    (light - (u16::from(colour) * light + 127) / 255) as u8
}

/// Pixels of four inks to three colours, where they stand.
fn of_inks(pixels: &mut Vec<u8>) {
    let count = pixels.len() / 4;
    for i in 0..count {
        let black = pixels[4 * i + 3];
        for c in 0..3 {
            pixels[3 * i + c] = ink(pixels[4 * i + c], black);
        }
    }
    pixels.truncate(3 * count);
    pixels.shrink_to_fit();
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
