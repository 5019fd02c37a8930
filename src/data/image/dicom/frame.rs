//! Pixel values of one frame: out of the element or its fragments, through the decoder of the transfer syntax.

use anyhow::{Context, Result, anyhow, bail, ensure};
use dicom_core::value::Value;
use dicom_object::DefaultDicomObject;
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::super::picture::{MAX_BYTES, MAX_SIDE};
use super::elements::{count, number, tags, text};
use super::jpeg_ls;
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

const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

pub(super) fn read(object: &DefaultDicomObject, index: usize) -> Result<Frame> {
    let (rows, columns) = (count(object, tags::ROWS, "Rows")?, count(object, tags::COLUMNS, "Columns")?);
    let samples = number(object, tags::SAMPLES).map_or(1, |n| n as usize);
    let frames = number(object, tags::FRAMES).map_or(1, |n| (n as usize).max(1));
    let allocated = count(object, tags::BITS_ALLOCATED, "BitsAllocated")?;
    ensure!(samples == 1 || samples == 3, "has {samples} values a pixel; allowed are 1 and 3");
    ensure!(rows > 0 && columns > 0, "is {columns} × {rows} pixels");
    ensure!(
        rows.max(columns) <= MAX_SIDE as usize && (rows * columns * samples) as u64 * 4 <= MAX_BYTES,
        "claims {columns} × {rows} pixels; allowed are {MAX_SIDE} a side and {} MiB in all",
        MAX_BYTES >> 20
    );
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
    match super::elements::value(object, tags::PIXELS).context("has no pixels")? {
        Value::Primitive(all) => {
            let mut bytes = all.to_bytes();
            if syntax == BIG_ENDIAN && allocated == 32 {
                // Each half was turned by itself.
                bytes.to_mut().chunks_exact_mut(4).for_each(|b| b.rotate_left(2));
            }
            frame.values = native(&bytes, &frame, &layout, index)?;
        }
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
    let start = bits.checked_mul(index).context("has fewer pixels than it says: it is truncated")?;
    ensure!(all.len() * 8 >= start.saturating_add(bits), "has fewer pixels than it says: it is truncated");
    let bytes = match layout.allocated {
        1 => all,
        _ => all.get(start / 8..start / 8 + bits / 8).unwrap_or_default(),
    };
    let values = match layout.allocated {
        1 => (start..start + bits).map(|bit| i32::from(bytes[bit / 8] >> (bit % 8) & 1)).collect(),
        allocated => numbers(bytes, allocated, frame),
    };
    Ok(if halved {
        values.chunks_exact(4).flat_map(|p| [p[0], p[2], p[3], p[1], p[2], p[3]]).collect()
    } else if layout.planar && frame.samples == 3 {
        interleaved(&values)
    } else {
        values
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

/// What a decoder gave.
struct Decoded {
    size: (usize, usize),
    samples: usize,
    /// Bits of a value whose sign is still to be found; `None` where it has one.
    bits: Option<u32>,
    /// Values of a pixel side by side.
    values: Vec<i32>,
    /// Colours were turned into RGB on the way.
    rgb: bool,
}

fn decode(bytes: &[u8], syntax: &str, frame: &mut Frame, layout: &Layout) -> Result<()> {
    let name = transfer_syntax(syntax).with_context(|| {
        format!(
            "has transfer syntax {syntax}, which is not read; known are uncompressed, deflated, RLE, JPEG, JPEG-LS and \
             JPEG 2000"
        )
    })?;
    let decoded = caught(|| match name {
        "RLE" => rle(bytes, frame, layout),
        "JPEG" => jpeg(bytes, frame),
        "JPEG-LS" => {
            let d = jpeg_ls::decode(bytes, frame.rows * frame.columns * frame.samples)?;
            let values = d.values.iter().map(|&v| v.into()).collect();
            Ok(Decoded { size: (d.width, d.height), samples: d.components, bits: Some(d.bits), values, rgb: false })
        }
        _ => jpeg_2000(bytes, frame),
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
    frame.values = match decoded.bits {
        Some(bits) => decoded.values.iter().map(|&v| sign(v as u32, bits, frame.signed)).collect(),
        None => decoded.values,
    };
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
        _ => return None,
    })
}

/// PS3.5 annex G: for each sample of a pixel its bytes from the highest on, each run-length coded for itself.
fn rle(bytes: &[u8], frame: &Frame, layout: &Layout) -> Result<Decoded> {
    let word = |i: usize| -> Result<usize> {
        let b = bytes.get(4 * i..4 * i + 4).context("its header is cut")?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let each = layout.allocated / 8;
    let (count, pixels) = (word(0)?, frame.rows * frame.columns);
    ensure!(each > 0 && count == each * frame.samples, "it has {count} segments, not {}", each * frame.samples);
    let mut values = vec![0u32; pixels * frame.samples];
    for segment in 0..count {
        let start = word(1 + segment)?;
        let end = if segment + 1 < count { word(2 + segment)? } else { bytes.len() };
        let packed = bytes.get(start..end).context("its header names bytes that are not there")?;
        let (sample, shift) = (segment / each, 8 * (each - 1 - segment % each));
        let plane = unpack_bits(packed, pixels)?;
        for (value, byte) in values[sample..].iter_mut().step_by(frame.samples).zip(plane) {
            *value |= u32::from(byte) << shift;
        }
    }
    let bits = frame.bits_stored.min(layout.allocated as u32);
    let values = values.into_iter().map(|v| v as i32).collect();
    Ok(Decoded { size: (frame.columns, frame.rows), samples: frame.samples, bits: Some(bits), values, rgb: false })
}

fn unpack_bits(packed: &[u8], wanted: usize) -> Result<Vec<u8>> {
    let mut plane = Vec::with_capacity(wanted);
    let mut rest = packed;
    while plane.len() < wanted {
        let (&control, after) = rest.split_first().context("it ends in the middle of its pixels")?;
        let count = match control {
            0..=127 => usize::from(control) + 1,
            128 => 0,
            129.. => 257 - usize::from(control),
        };
        let used = if control < 128 { count } else { usize::from(count > 0) };
        let bytes = after.get(..used).context("it ends in the middle of its pixels")?;
        if control < 128 {
            plane.extend_from_slice(bytes);
        } else {
            plane.extend(std::iter::repeat_n(bytes.first().copied().unwrap_or_default(), count));
        }
        rest = &after[used..];
    }
    plane.truncate(wanted);
    Ok(plane)
}

fn jpeg(bytes: &[u8], frame: &Frame) -> Result<Decoded> {
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(MAX_BYTES as usize);
    let coloured = frame.photometric.starts_with("YBR");
    // Where the file says RGB the marks of the JPEG itself decide: both kinds are met.
    if coloured {
        decoder.set_color_transform(ColorTransform::YCbCr);
    }
    decoder.read_info()?;
    let info = decoder.info().context("has no header")?;
    let size = (usize::from(info.width), usize::from(info.height));
    ensure!(size == (frame.columns, frame.rows), "its header says {} × {}", size.0, size.1);
    let bytes = decoder.decode()?;
    let small = || bytes.iter().map(|&b| b.into()).collect();
    let (samples, values) = match info.pixel_format {
        PixelFormat::L8 => (1, small()),
        PixelFormat::L16 => (1, bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]).into()).collect()),
        PixelFormat::RGB24 => (3, small()),
        PixelFormat::CMYK32 => bail!("four colours"),
    };
    Ok(Decoded { size, samples, bits: Some(frame.bits_stored), values, rgb: coloured })
}

fn jpeg_2000(bytes: &[u8], frame: &Frame) -> Result<Decoded> {
    bounded_j2k(bytes, frame)?;
    let image = jpeg2k::Image::from_bytes(bytes).map_err(|e| anyhow!("{e}"))?;
    let planes = image.components();
    let size = (image.width() as usize, image.height() as usize);
    let pixels = size.0 * size.1;
    ensure!(!planes.is_empty() && planes.iter().all(|p| p.data().len() == pixels), "its planes differ in size");
    let values = (0..pixels).flat_map(|i| planes.iter().map(move |p| p.data()[i])).collect();
    // The code stream may say that values have no sign where the file says that they have one.
    let bits = (!planes[0].is_signed()).then(|| planes[0].precision());
    // The decoder turns the colour transform of the code stream back.
    let rgb = planes.len() == 3 && frame.photometric != "YBR_FULL";
    Ok(Decoded { size, samples: planes.len(), bits, values, rgb })
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
