//! Pixel values of one frame: out of the element or its fragments, through the decoder of the transfer syntax.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::super::budget::{afford, most};
use super::super::jpeg_header::JpegHeader;
use super::super::picture::MAX_SIDE;
use super::bits::{self, Bits, check_single};
use super::elements::Object;
use super::file::DicomFile;
use super::syntax::unread;
use super::tags;
use super::values::{Decoded, Frame};
use super::walk::Held;
use super::{jpeg_2000, jpeg_ls, rle};
use crate::error::caught;

/// How values lie in the element.
struct Layout {
    allocated: usize,
    bits: Bits,
    planar: bool,
    /// Bytes that were taken before.
    taken: u64,
}

/// What is said of a file's frames, before their pixels are read.
pub(super) struct Described {
    /// Without values.
    frame: Frame,
    layout: Layout,
    pub frames: usize,
}

pub(super) fn described(object: &Object, file: &DicomFile) -> Result<Described> {
    let (rows, columns) = (object.count(tags::ROWS, "Rows")?, object.count(tags::COLUMNS, "Columns")?);
    let samples = object.number(tags::SAMPLES).map_or(1, |n| n as usize);
    let frames = bits::frames(object)?;
    let allocated = object.count(tags::BITS_ALLOCATED, "BitsAllocated")?;
    ensure!(samples == 1 || samples == 3, "has {samples} values a pixel; allowed are 1 and 3");
    ensure!(rows > 0 && columns > 0, "is {columns} × {rows} pixels");
    ensure!(rows.max(columns) <= MAX_SIDE as usize, "claims {columns} × {rows} pixels; allowed are {MAX_SIDE} a side");
    ensure!(matches!(allocated, 1 | 8 | 16 | 32), "has {allocated} bits a value; allowed are 1, 8, 16 and 32");
    let planar = object.number(tags::PLANAR) == Some(1.0);
    let is_coded = transfer_syntax(&file.syntax).is_some_and(|name| name != "RLE");
    let bits = Bits::read(object, allocated, is_coded)?;
    let frame = Frame {
        rows,
        columns,
        samples,
        bits_stored: bits.stored,
        signed: bits.signed,
        photometric: bits::photometric(object, samples)?,
        values: Vec::new(),
    };
    let layout = Layout { allocated, bits, planar, taken: file.taken() };
    afford(layout.taken + frame.need(planar))?;
    Ok(Described { frame, layout, frames })
}

impl Described {
    /// # Errors
    /// There is no such frame.
    pub fn check(&self, index: usize) -> Result<()> {
        let (frames, frame) = (self.frames, index + 1);
        ensure!(index < frames, "has {frames} frames, so there is no frame {frame}; allowed are 1 to {frames}");
        Ok(())
    }

    /// Whether frames that are not compressed begin and end with a byte.
    pub fn has_whole_bytes(&self) -> bool {
        self.layout.allocated > 1
    }

    /// Bits of a frame that is not compressed.
    ///
    /// # Errors
    /// Halved colours do not fit its size.
    pub fn native_bits(&self) -> Result<usize> {
        let (frame, is_halved) = (&self.frame, is_halved(&self.frame)?);
        let count = if is_halved { frame.rows * frame.columns * 2 } else { frame.count() };
        Ok(count * self.layout.allocated)
    }

    /// The frame whose values `bytes` are, low byte first.
    ///
    /// # Errors
    /// They are fewer than it says.
    pub fn of_native(mut self, bytes: &[u8]) -> Result<Frame> {
        self.frame.values = self.native(bytes, 0)?;
        Ok(self.frame)
    }

    /// The frame that `bytes` hold, compressed as `file` says.
    ///
    /// # Errors
    /// They cannot be decoded.
    pub fn of_fragment(mut self, bytes: &[u8], file: &DicomFile) -> Result<Frame> {
        decode(bytes, file, &mut self.frame, &self.layout)?;
        Ok(self.frame)
    }
}

pub(super) fn read(object: &Object, file: &DicomFile, index: usize) -> Result<Frame> {
    let described = described(object, file)?;
    described.check(index)?;
    let (held, big_endian) = object.held(tags::PIXELS).context("has no pixels")?;
    match held {
        Held::Bytes(place) => {
            let Described { frame, layout, .. } = &described;
            let (own, start) = described.words_of(object.part(place), index)?;
            let turned = turned(own, big_endian && object.is_of_words(tags::PIXELS), layout.allocated);
            let copied = if matches!(turned, Cow::Owned(_)) { own.len() as u64 } else { 0 };
            afford(layout.taken + copied + frame.need(layout.planar))?;
            let values = described.native(&turned, start)?;
            Ok(Frame { values, ..described.frame })
        }
        Held::Fragments(table, fragments) => {
            ensure_read(file)?;
            let begins = |fragment: &Range<usize>| fragment.start as u64;
            let own = fragments_of(fragments, begins, object.part(table), described.frames, index)?;
            let bytes = match &fragments[own] {
                [only] => Cow::Borrowed(object.part(only)),
                several => Cow::Owned(several.iter().map(|place| object.part(place)).collect::<Vec<_>>().concat()),
            };
            described.of_fragment(&bytes, file)
        }
        Held::Items(..) => bail!("has no pixels"),
    }
}

/// Whether two pixels share their colour: Y Y Cb Cr.
fn is_halved(frame: &Frame) -> Result<bool> {
    let is_halved = frame.photometric == "YBR_FULL_422";
    ensure!(
        !is_halved || (frame.columns.is_multiple_of(2) && frame.samples == 3),
        "says YBR_FULL_422 and has {} columns of {} values; allowed are even numbers of columns and 3 values",
        frame.columns,
        frame.samples
    );
    Ok(is_halved)
}

/// Bytes whose values have their low byte first. `is_swapped`: words of them have their high byte first.
fn turned(own: &[u8], is_swapped: bool, allocated: usize) -> Cow<'_, [u8]> {
    if !is_swapped {
        return Cow::Borrowed(own);
    }
    let mut bytes = own.to_vec();
    bytes.chunks_exact_mut(word_of(allocated)).for_each(<[u8]>::reverse);
    Cow::Owned(bytes)
}

/// Bytes that are turned together.
fn word_of(allocated: usize) -> usize {
    if allocated == 32 { 4 } else { 2 }
}

const CUT: &str = "has fewer pixels than it says: it is truncated";

impl Described {
    /// Of pixels that are not compressed the words that hold a frame, and the bit of them at which it begins.
    fn words_of<'a>(&self, all: &'a [u8], index: usize) -> Result<(&'a [u8], usize)> {
        let (bits, word) = (self.native_bits()?, word_of(self.layout.allocated));
        let start = bits.checked_mul(index).context(CUT)?;
        let end = start.checked_add(bits).context(CUT)?;
        ensure!(all.len() * 8 >= end, CUT);
        if self.layout.allocated == 1 {
            check_single(all.len(), bits, self.frames)?;
        }
        let from = start / 8 / word * word;
        let to = end.div_ceil(8).next_multiple_of(word).min(all.len());
        Ok((&all[from..to], start - 8 * from))
    }

    /// Values of a frame that is not compressed and begins at bit `start`.
    fn native(&self, bytes: &[u8], start: usize) -> Result<Vec<i32>> {
        let Self { frame, layout, .. } = self;
        let end = start.saturating_add(self.native_bits()?);
        ensure!(bytes.len() * 8 >= end, CUT);
        let values = match layout.allocated {
            1 => (start..end).map(|bit| i32::from(bytes[bit / 8] >> (bit % 8) & 1)).collect(),
            allocated => numbers(&bytes[start / 8..end / 8], allocated, &layout.bits),
        };
        Ok(if is_halved(frame)? {
            let mut all = Vec::with_capacity(frame.count());
            values.chunks_exact(4).for_each(|p| all.extend([p[0], p[2], p[3], p[1], p[2], p[3]]));
            all
        } else if layout.planar && frame.samples == 3 {
            interleaved(&values)
        } else {
            values
        })
    }
}

/// Little-endian values of the bits that count.
fn numbers(bytes: &[u8], allocated: usize, bits: &Bits) -> Vec<i32> {
    let one = |raw: u32| bits.value(raw);
    match allocated {
        8 => bytes.iter().map(|&b| one(b.into())).collect(),
        16 => bytes.chunks_exact(2).map(|b| one(u16::from_le_bytes([b[0], b[1]]).into())).collect(),
        _ => bytes.chunks_exact(4).map(|b| one(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
    }
}

/// Planes one after another → values of a pixel side by side.
fn interleaved(planes: &[i32]) -> Vec<i32> {
    let pixels = planes.len() / 3;
    let mut values = Vec::with_capacity(planes.len());
    (0..pixels).for_each(|i| values.extend([planes[i], planes[pixels + i], planes[2 * pixels + i]]));
    values
}

/// Of a film all frames lie in few fragments, which would be told of instead.
///
/// # Errors
/// The transfer syntax of compressed pixels is not read.
pub(super) fn ensure_read(file: &DicomFile) -> Result<()> {
    transfer_syntax(&file.syntax).map(|_| ()).with_context(|| unread(&file.syntax))
}

/// Which fragments hold a frame: it may lie in several. `begins`: where the content of each begins, in rising order.
///
/// # Errors
/// The table of where frames begin is missing where it is needed, does not point at fragments, or not in order.
pub(super) fn fragments_of<F>(
    fragments: &[F],
    begins: impl Fn(&F) -> u64,
    offsets: &[u8],
    frames: usize,
    index: usize,
) -> Result<Range<usize>> {
    let (known, count) = (offsets.len() / 4, fragments.len());
    let origin = begins(fragments.first().context("has no pixels")?);
    match frames {
        1 => return Ok(0..count),
        frames if frames == count => return Ok(index..index + 1),
        _ => ensure!(known == frames, "has {count} fragments for {frames} frames and no table of them"),
    }
    let offset = |i: usize| {
        let b = offsets.get(4 * i..4 * i + 4)?;
        Some(u64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    };
    let start = offset(index).context(BROKEN_TABLE)?;
    let next = offset(index + 1);
    // Offsets count from the first fragment's item, which stands as far before its content as those of the others.
    let at = |fragment: &F| begins(fragment).saturating_sub(origin);
    let before = |place: u64| fragments.partition_point(|fragment| at(fragment) < place);
    let (first, last) = (before(start), next.map_or(count, before));
    // From another fragment on, or with a part of the next frame, it would be another picture.
    let is_one = |i: usize, place: u64| fragments.get(i).is_some_and(|fragment| at(fragment) == place);
    ensure!(first < last && is_one(first, start) && next.is_none_or(|next| is_one(last, next)), BROKEN_TABLE);
    Ok(first..last)
}

const BROKEN_TABLE: &str = "its table of fragments is broken";

fn decode(bytes: &[u8], file: &DicomFile, frame: &mut Frame, layout: &Layout) -> Result<()> {
    let name = transfer_syntax(&file.syntax).with_context(|| unread(&file.syntax))?;
    let values = 4 * frame.count() as u64;
    let decoded = caught(|| match name {
        "RLE" => rle::decode(bytes, frame, layout.allocated),
        "JPEG" => jpeg(bytes, frame),
        "JPEG-LS" => {
            // Two bytes a value, then four.
            afford(values / 2 + values)?;
            let d = jpeg_ls::decode(bytes, frame.count())?;
            let values = d.values.iter().map(|&v| v.into()).collect();
            Ok(Decoded { size: (d.width, d.height), samples: d.components, bits: d.bits, values, rgb: false })
        }
        _ => jpeg_2000::decode(bytes, frame),
    });
    let mut decoded = decoded.with_context(|| format!("its {name} pixels cannot be decoded"))?;
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
    let bits = decoded.bits;
    decoded.values.iter_mut().for_each(|v| *v = bits::number(*v as u32, bits, frame.signed));
    frame.values = decoded.values;
    ensure!(frame.values.len() == frame.count(), "its {name} pixels are fewer than it says");
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

fn jpeg(bytes: &[u8], frame: &Frame) -> Result<Decoded> {
    let header = JpegHeader::read(bytes)?;
    let (width, height) = header.size();
    let size = (width as usize, height as usize);
    ensure!(size == (frame.columns, frame.rows), "its header says {width} × {height}");
    // The decoder's result, and four bytes a value made of it.
    afford(header.need().max(6 * header.values()))?;
    header.check_claims()?;
    let mut decoder = Decoder::new(bytes);
    decoder.set_max_decoding_buffer_size(most() as usize);
    let coloured = frame.photometric.starts_with("YBR");
    // Where the file says RGB the marks of the JPEG itself decide: both kinds are met.
    if coloured {
        decoder.set_color_transform(ColorTransform::YCbCr);
    }
    let bytes = decoder.decode()?;
    let info = decoder.info().context("has no header")?;
    let small = || bytes.iter().map(|&b| b.into()).collect();
    let (samples, values) = match info.pixel_format {
        PixelFormat::L8 => (1, small()),
        PixelFormat::L16 => (1, bytes.chunks_exact(2).map(|b| u16::from_ne_bytes([b[0], b[1]]).into()).collect()),
        PixelFormat::RGB24 => (3, small()),
        PixelFormat::CMYK32 => bail!("four colours"),
    };
    Ok(Decoded { size, samples, bits: frame.bits_stored, values, rgb: coloured })
}
