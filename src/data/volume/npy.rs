//! NumPy's arrays, `.npy`, and the first of an `.npz`: as CT-RATE's derivatives are kept. Pickles are not read.
//!
//! Arrays say nothing of millimetres: slices come first, from the feet to the head, then rows to the back, then columns
//! to the patient's left, as a DICOM series has them; voxels count as 1 mm.

use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use flate2::read::DeflateDecoder;

use super::bytes::{Bytes, Stored};
use super::geometry::{self, Geometry, Order};
use super::numbers::{Coding, Number};
use super::planes::Volume;
use crate::archive;
use crate::data::image::afford;
use crate::error::shown;
use crate::fs::open_plain;
use crate::npy::Header;

/// Longest header; those of arrays have some 120 bytes.
const MOST_HEADER: usize = 16 << 10;

/// # Errors
/// No array of three axes of plain numbers, or it is longer than its file.
pub(super) fn open(path: &Path) -> Result<Volume> {
    let mut file = open_plain(path)?;
    let mut start = [0; 2];
    let length = file.metadata()?.len();
    file.read_exact(&mut start).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => anyhow!("has {length} bytes, and no array; save it anew"),
        _ => error.into(),
    })?;
    if start != *b"PK" {
        return array(Bytes::Plain(Box::new(file)), 0, length);
    }
    let entries = archive::entries(&mut file)?;
    // np.savez names them arr_0, arr_1, …
    let name = entries
        .keys()
        .filter(|name| name.ends_with(".npy"))
        .min()
        .context("holds no .npy array; allowed is one that numpy.savez writes")?;
    let entry = entries[name];
    let range = entry.place(&mut file)?;
    if !entry.is_packed {
        let end = range.end;
        return array(Bytes::Plain(Box::new(file)), range.start, end);
    }
    file.seek(SeekFrom::Start(range.start))?;
    let packed = BufReader::new(file).take(range.end - range.start);
    array(Bytes::Packed(Box::new(DeflateDecoder::new(packed)), 0), 0, entry.length)
}

/// The array that begins at byte `start`; no byte at or behind `end` is its own.
fn array(mut bytes: Bytes, start: u64, end: u64) -> Result<Volume> {
    let mut at = start;
    let header = Header::read(
        &mut |into| {
            bytes.read_at(at, into)?;
            at += into.len() as u64;
            Ok(())
        },
        MOST_HEADER,
    )?;
    let (coding, shape) = described(&header)?;
    // Which axis is which: slices, rows, columns.
    let order = if header.is_fortran == Some(true) { [0, 1, 2] } else { [2, 1, 0] };
    let steps = [[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 0.0, 0.0]];
    let affine = [0, 1, 2].map(|x| [steps[order[0]][x], steps[order[1]][x], steps[order[2]][x], 0.0]);
    let stored = order.map(|axis| shape[axis]);
    let plane = (stored[0] * stored[1] * coding.number.size()) as u64;
    let offset = start + header.length;
    let needed = plane.saturating_mul(stored[2] as u64);
    let there = end.saturating_sub(offset);
    ensure!(needed <= there, "claims {needed} bytes of numbers, and has {there}; is it truncated?");
    afford(plane)?;
    let geometry = Geometry { shape: stored, affine, is_known: false, order: Order::default() };
    Ok(Volume { geometry, planes: Box::new(Stored::new(bytes, offset, coding, stored)) })
}

/// Type, and the last three sides.
fn described(header: &Header) -> Result<(Coding, [usize; 3])> {
    let kind = header.kind.as_deref().context("holds no plain numbers")?;
    let (order, name) = kind.split_at_checked(1).unwrap_or_default();
    let number = match name {
        "u1" | "b1" => Number::U8,
        "i1" => Number::I8,
        "u2" => Number::U16,
        "i2" => Number::I16,
        "u4" => Number::U32,
        "i4" => Number::I32,
        "u8" => Number::U64,
        "i8" => Number::I64,
        "f2" => Number::F16,
        "f4" => Number::F32,
        "f8" => Number::F64,
        _ => bail!("holds numbers of type {}; known are whole numbers and floats of up to 64 bits", shown(kind)),
    };
    let sides = header.shape.as_deref().context("is no .npy file: it has no shape")?;
    let three = sides.len().checked_sub(3).filter(|more| sides[..*more].iter().all(|side| *side == 1));
    let more = three.with_context(|| format!("has {} axes; a volume has three: slices, rows, columns", sides.len()))?;
    let shape = geometry::sides([0, 1, 2].map(|axis| i64::try_from(sides[more + axis]).unwrap_or(i64::MAX)))?;
    Ok((Coding { number, is_big_endian: order == ">", slope: 1.0, intercept: 0.0 }, shape))
}
