//! Pixel values of one frame: out of the element or its fragments, through the decoder of the transfer syntax.

use anyhow::{Context, Result, anyhow, bail, ensure};
use dicom_core::value::Value;
use dicom_object::DefaultDicomObject;
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::{count, number, tags, text};
use crate::data::image::{MAX_BYTES, MAX_SIDE};
use crate::error::caught;

/// Pixel values of one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Rows of pixels.
    pub rows: usize,
    /// Pixels of a row.
    pub columns: usize,
    /// 1, or 3 side by side.
    pub samples: usize,
    /// Bits that a value may take.
    pub bits_stored: u32,
    /// Whether values have a sign.
    pub signed: bool,
    /// MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL, …
    pub photometric: String,
    /// rows × columns × samples values.
    pub values: Vec<i32>,
}

/// How values lie in the element.
struct Layout {
    allocated: usize,
    planar: bool,
}

pub(super) fn read(object: &DefaultDicomObject, index: usize) -> Result<Frame> {
    let (rows, columns) = (count(object, tags::ROWS, "Rows")?, count(object, tags::COLUMNS, "Columns")?);
    let samples = number(object, tags::SAMPLES).map_or(1, |n| n as usize);
    let frames = number(object, tags::FRAMES).map_or(1, |n| (n as usize).max(1));
    let allocated = count(object, tags::BITS_ALLOCATED, "BitsAllocated")?;
    ensure!(rows > 0 && columns > 0, "is {columns} × {rows} pixels");
    ensure!(
        rows.max(columns) <= MAX_SIDE as usize && (rows * columns * samples.max(1)) as u64 * 4 <= MAX_BYTES,
        "claims {columns} × {rows} pixels; allowed are {MAX_SIDE} a side and {} MiB in all",
        MAX_BYTES >> 20
    );
    ensure!(samples == 1 || samples == 3, "has {samples} values a pixel; allowed are 1 and 3");
    ensure!(matches!(allocated, 1 | 8 | 16 | 32), "has {allocated} bits a value; allowed are 1, 8, 16 and 32");
    ensure!(index < frames, "has {frames} frames, so there is no frame {}", index + 1);
    let planar = number(object, tags::PLANAR) == Some(1.0);
    let layout = Layout { allocated, planar };
    let bits_stored = number(object, tags::BITS_STORED).map_or(allocated as u32, |n| (n as u32).clamp(1, 32));
    let mut frame = Frame {
        rows,
        columns,
        samples,
        bits_stored,
        signed: number(object, tags::REPRESENTATION) == Some(1.0),
        photometric: text(object, tags::PHOTOMETRIC).unwrap_or_else(|| "MONOCHROME2".into()),
        values: Vec::new(),
    };
    let syntax = object.meta().transfer_syntax().trim_end_matches('\0').to_string();
    match super::value(object, tags::PIXELS).context("has no pixels")? {
        Value::Primitive(all) => frame.values = native(&all.to_bytes(), &frame, &layout, index)?,
        Value::PixelSequence(sequence) => {
            let bytes = fragment(sequence.fragments(), sequence.offset_table(), frames, index)?;
            decode(&bytes, &syntax, &mut frame, &layout)?;
        }
        Value::Sequence(_) => bail!("has no pixels"),
    }
    Ok(frame)
}

/// Values of a frame that is not compressed.
fn native(all: &[u8], frame: &Frame, layout: &Layout, index: usize) -> Result<Vec<i32>> {
    let pixels = frame.rows * frame.columns;
    // Two pixels share their colour: Y Y Cb Cr.
    let halved = frame.photometric == "YBR_FULL_422";
    let count = if halved { pixels * 2 } else { pixels * frame.samples };
    let bits = count * layout.allocated;
    let start = bits * index;
    let bytes = match layout.allocated {
        1 => all,
        _ => all.get(start / 8..start / 8 + bits / 8).unwrap_or_default(),
    };
    ensure!(all.len() * 8 >= start + bits, "has fewer pixels than it says: it is truncated");
    let values = match layout.allocated {
        1 => (start..start + bits).map(|bit| i32::from(bytes[bit / 8] >> (bit % 8) & 1)).collect(),
        allocated => numbers(bytes, allocated, frame),
    };
    Ok(match () {
        () if halved => values.chunks_exact(4).flat_map(|p| [p[0], p[2], p[3], p[1], p[2], p[3]]).collect(),
        () if layout.planar && frame.samples == 3 => interleaved(&values),
        () => values,
    })
}

/// Little-endian values with their sign.
fn numbers(bytes: &[u8], allocated: usize, frame: &Frame) -> Vec<i32> {
    let one = |raw: u32| sign(raw, frame.bits_stored.min(allocated as u32), frame.signed);
    match allocated {
        8 => bytes.iter().map(|&b| one(b.into())).collect(),
        16 => bytes.chunks_exact(2).map(|b| one(u16::from_le_bytes([b[0], b[1]]).into())).collect(),
        _ => bytes.chunks_exact(4).map(|b| one(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
    }
}

fn sign(raw: u32, bits: u32, signed: bool) -> i32 {
    let shift = 32 - bits;
    if signed { ((raw << shift) as i32) >> shift } else { raw as i32 }
}

/// Planes one after another → values of a pixel side by side.
fn interleaved(planes: &[i32]) -> Vec<i32> {
    let pixels = planes.len() / 3;
    (0..pixels).flat_map(|i| [planes[i], planes[pixels + i], planes[2 * pixels + i]]).collect()
}

/// The compressed bytes of a frame, which may lie in several fragments.
fn fragment(fragments: &[Vec<u8>], offsets: &[u32], frames: usize, index: usize) -> Result<Vec<u8>> {
    ensure!(!fragments.is_empty(), "has no pixels");
    if frames == 1 {
        return Ok(fragments.concat());
    }
    if fragments.len() == frames {
        return Ok(fragments[index].clone());
    }
    ensure!(offsets.len() == frames, "has {} fragments for {frames} frames and no table of them", fragments.len());
    // Offsets count from the first fragment's item, eight bytes before its content.
    let mut at = 0u64;
    let (start, end) = (u64::from(offsets[index]), offsets.get(index + 1).map_or(u64::MAX, |&o| o.into()));
    let mut bytes = Vec::new();
    for part in fragments {
        if at >= start && at < end {
            bytes.extend_from_slice(part);
        }
        at += 8 + part.len() as u64;
    }
    ensure!(!bytes.is_empty(), "its table of fragments is broken");
    Ok(bytes)
}

/// What a decoder gave: values of `bits` bits, little-endian, of a pixel side by side.
struct Decoded {
    size: (usize, usize),
    samples: usize,
    bits: u32,
    bytes: Vec<u8>,
    /// Colours were turned into RGB on the way.
    rgb: bool,
}

fn decode(bytes: &[u8], syntax: &str, frame: &mut Frame, layout: &Layout) -> Result<()> {
    let name = transfer_syntax(syntax).with_context(|| {
        format!(
            "has transfer syntax {syntax}, which is not read; known are uncompressed, deflated, RLE, JPEG, JPEG-LS, JPEG \
             2000 and HTJ2K"
        )
    })?;
    let decoded = caught(|| match name {
        "RLE" => rle(bytes, frame, layout),
        "JPEG" => jpeg(bytes, frame),
        "JPEG-LS" => {
            let d = dicom_toolkit_codec::JpegLsCodec::decode_frame(bytes).map_err(|e| anyhow!("{e}"))?;
            let size = (d.width as usize, d.height as usize);
            Ok(Decoded {
                size,
                samples: d.components.into(),
                bits: d.bits_per_sample.into(),
                bytes: d.pixels,
                rgb: false,
            })
        }
        _ => {
            bounded_j2k(bytes, frame)?;
            let d = dicom_toolkit_codec::jp2k::decoder::decode_jp2k(bytes).map_err(|e| anyhow!("{e}"))?;
            let size = (d.width as usize, d.height as usize);
            // The decoder turns the colour transform of the code stream back.
            let rgb = d.components == 3 && frame.photometric != "YBR_FULL";
            Ok(Decoded { size, samples: d.components.into(), bits: d.bits_per_sample.into(), bytes: d.pixels, rgb })
        }
    });
    let decoded = decoded.with_context(|| format!("its {name} pixels cannot be decoded"))?;
    ensure!(
        decoded.size == (frame.columns, frame.rows) && decoded.samples == frame.samples,
        "its {name} pixels are {} × {} × {}, not {} × {} × {} as it says",
        decoded.size.0,
        decoded.size.1,
        decoded.samples,
        frame.columns,
        frame.rows,
        frame.samples
    );
    let width = if decoded.bits > 8 { 16 } else { 8 };
    let signed_bits = Frame { bits_stored: decoded.bits.min(frame.bits_stored), ..frame.clone() };
    frame.values = numbers(&decoded.bytes, width, &signed_bits);
    ensure!(
        frame.values.len() == frame.rows * frame.columns * frame.samples,
        "its {name} pixels are fewer than it says"
    );
    if decoded.rgb {
        frame.photometric = "RGB".into();
    }
    Ok(())
}

fn transfer_syntax(uid: &str) -> Option<&'static str> {
    Some(match uid.strip_prefix("1.2.840.10008.1.2.")? {
        "5" => "RLE",
        "4.50" | "4.51" | "4.53" | "4.55" | "4.57" | "4.70" => "JPEG",
        "4.80" | "4.81" => "JPEG-LS",
        "4.90" | "4.91" | "4.92" | "4.93" => "JPEG 2000",
        "4.201" | "4.202" | "4.203" => "HTJ2K",
        _ => return None,
    })
}

fn rle(bytes: &[u8], frame: &Frame, layout: &Layout) -> Result<Decoded> {
    ensure!(matches!(layout.allocated, 8 | 16), "{} bits a value; allowed are 8 and 16", layout.allocated);
    let (rows, columns) = (u16::try_from(frame.rows)?, u16::try_from(frame.columns)?);
    let (samples, allocated) = (frame.samples as u8, layout.allocated as u8);
    let bytes = dicom_toolkit_codec::rle_decode_frame(bytes, rows, columns, samples, allocated);
    let bytes = bytes.map_err(|e| anyhow!("{e}"))?;
    let size = (frame.columns, frame.rows);
    Ok(Decoded { size, samples: frame.samples, bits: layout.allocated as u32, bytes, rgb: false })
}

fn jpeg(bytes: &[u8], frame: &Frame) -> Result<Decoded> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(MAX_BYTES as usize);
    let coloured = frame.photometric.starts_with("YBR");
    if frame.samples == 3 {
        decoder.set_color_transform(if coloured { ColorTransform::YCbCr } else { ColorTransform::None });
    }
    decoder.read_info()?;
    let info = decoder.info().context("has no header")?;
    let size = (usize::from(info.width), usize::from(info.height));
    ensure!(size == (frame.columns, frame.rows), "its header says {} × {}", size.0, size.1);
    let bytes = decoder.decode()?;
    let (samples, bits, bytes) = match info.pixel_format {
        PixelFormat::L8 => (1, 8, bytes),
        PixelFormat::L16 => {
            let native = bytes.chunks_exact(2).flat_map(|b| u16::from_ne_bytes([b[0], b[1]]).to_le_bytes());
            (1, 16, native.collect())
        }
        PixelFormat::RGB24 => (3, 8, bytes),
        PixelFormat::CMYK32 => bail!("four colours"),
    };
    Ok(Decoded { size, samples, bits, bytes, rgb: coloured })
}

/// The decoder makes room for whatever the code stream's header claims: that is looked at first.
fn bounded_j2k(bytes: &[u8], frame: &Frame) -> Result<()> {
    const SIZ: [u8; 2] = [0xff, 0x51];
    let at = bytes.windows(2).take(4096).position(|w| w == SIZ).context("no header")?;
    let word = |i: usize| -> Option<usize> {
        let b = bytes.get(at + i..at + i + 4)?;
        Some(u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let side = |i: usize| Some(word(i)?.saturating_sub(word(i + 8)?));
    let size = side(6).zip(side(10)).context("its header is cut")?;
    ensure!(size == (frame.columns, frame.rows), "its header says {} × {}", size.0, size.1);
    Ok(())
}
