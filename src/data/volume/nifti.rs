//! NIfTI-1 and NIfTI-2 in one file, plain or gzip.
//!
//! The header of 348 or 540 bytes is read here (nifti1.h, nifti2.h): the `nifti` crate brings ndarray, num-complex,
//! num-derive and six more crates, makes room for whatever a header claims, and reads a whole volume where one slice is
//! asked for.

use std::io::{BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::bytes::{Bytes, Gzip, Stored};
use super::geometry::{self, Geometry, Order};
use super::numbers::{Coding, Number};
use super::planes::Volume;
use crate::data::image::{afford, over_limit};
use crate::fs::open_plain;

/// A byte of gzip unpacks to at most so many.
const MOST_UNPACKED: u64 = 1032;

/// What a header says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Header {
    pub geometry: Geometry,
    /// Points in time, or whatever else the fourth and higher axes are.
    pub times: usize,
    pub coding: Coding,
    /// Where voxels begin, in bytes.
    pub offset: u64,
    /// Bits of a voxel as bitpix has them, where the data type has others.
    bitpix: Option<u64>,
}

/// Opens a volume; `time` counts from 0.
///
/// # Errors
/// It is no NIfTI, its header is broken or claims more than the file can hold, or there is no such time.
pub(super) fn open(path: &Path, time: usize) -> Result<Volume> {
    let file = open_plain(path)?;
    let length = file.metadata()?.len();
    opened(file, length, time, u64::MAX).map(|(volume, _)| volume)
}

/// [`open`] of bytes that somebody sent, the first time, and what they claim to unpack to: no more than `most` bytes of
/// them are unpacked.
///
/// # Errors
/// As there; it claims more than that.
pub(super) fn open_held(bytes: &Arc<[u8]>, most: u64) -> Result<(Volume, u64)> {
    opened(Cursor::new(Arc::clone(bytes)), bytes.len() as u64, 0, most)
}

/// Whether bytes begin as a header does.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    // n+1 or n+2, by the header's length.
    [(344, &b"n+1\0"[..]), (4, &b"n+2\0"[..])].iter().any(|(at, mark)| bytes.get(*at..*at + 4) == Some(mark))
}

/// [`open`] of what is read from any place, and what it claims to unpack to; no more than `most` bytes are unpacked.
pub(super) fn opened(
    mut file: impl Read + Seek + 'static,
    length: u64,
    time: usize,
    most: u64,
) -> Result<(Volume, u64)> {
    let mut start = [0; 2];
    let is_packed = file.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b];
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = match is_packed {
        true => {
            let unpacked = Gzip::new(BufReader::with_capacity(1 << 16, file));
            // A header is read in any case, so that what it claims can be told.
            Bytes::Packed(Box::new(unpacked.take(most.max(540))), 0)
        }
        false => Bytes::Plain(Box::new(file)),
    };
    let mut head = first_bytes(&mut bytes, length, is_packed)?;
    if is_second(&head) {
        head.resize(540, 0);
        bytes.read_at(348, &mut head[348..]).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                anyhow!("ends in its NIfTI-2 header, which takes 540 bytes ({length} bytes); copy it anew")
            }
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                anyhow!("is broken: it cannot be unpacked ({length} bytes); copy it anew")
            }
            _ => error.into(),
        })?;
    }
    let header = Header::read(&head)?;
    let voxels = header.volume_bytes().saturating_mul(header.times as u64);
    let needed = header.offset.saturating_add(voxels);
    let can_hold = if is_packed { length.saturating_mul(MOST_UNPACKED) } else { length };
    ensure!(
        header.offset <= can_hold,
        "has vox_offset {}, where voxels begin, and is a file of {length} bytes; is it truncated?",
        header.offset
    );
    ensure!(
        needed <= can_hold,
        "claims {} bytes of voxels, which a file of {length} bytes cannot hold; is it truncated?",
        needed - header.offset
    );
    // The data type counts, as for nibabel, unless the file is as long as the other one makes it.
    if let Some(bits) = header.bitpix.filter(|_| !is_packed && length != needed) {
        let size = header.coding.number.size() as u64;
        let other = (voxels / size).saturating_mul(bits).div_ceil(8).saturating_add(header.offset);
        ensure!(
            length != other,
            "has bitpix {bits}, bits of a voxel, where its data type has {}, and is as long as bitpix says",
            8 * size
        );
    }
    if needed > most {
        return Err(over_limit(format!(
            "unpacks to {} MiB; {} are left of what all that is sent may (data.max_image_mib, or --max-image-mib)",
            needed.div_ceil(1 << 20),
            most >> 20
        )));
    }
    let times = header.times;
    ensure!(times > 1 || time == 0, "has one point in time, so there is no #{}; allowed is #1", time + 1);
    ensure!(time < times, "has {times} points in time, so there is no #{}; allowed are #1 to #{times}", time + 1);
    afford(header.plane_bytes())?;
    let geometry = header.geometry.clone();
    let offset = header.offset + time as u64 * header.volume_bytes();
    let stored = Stored::new(bytes, offset, header.coding, geometry.shape);
    Ok((Volume { geometry, planes: Box::new(stored) }, needed))
}

/// The 348 bytes that every header has at least.
fn first_bytes(bytes: &mut Bytes, length: u64, is_packed: bool) -> Result<Vec<u8>> {
    let head = bytes.start(348).map_err(|error| match is_packed {
        true => anyhow!("begins as gzip and cannot be unpacked ({length} bytes): broken or truncated; copy it anew"),
        false => error.into(),
    })?;
    match (head.len(), is_packed) {
        (348, _) => {}
        (0, true) => bail!("is a gzip file that holds nothing; a NIfTI header takes 348 bytes; copy or save it anew"),
        (0, false) => bail!("is empty; a NIfTI header takes 348 bytes; copy or save it anew"),
        (n, true) => bail!("unpacks to {n} bytes; a NIfTI header takes 348; is it another kind of file?"),
        (n, false) => bail!("has {n} bytes; a NIfTI header takes 348; is it another kind of file?"),
    }
    Ok(head)
}

fn is_second(head: &[u8]) -> bool {
    [540i32.to_le_bytes(), 540i32.to_be_bytes()].iter().any(|size| head.starts_with(size))
}

/// Fields of a header, by their place.
struct Fields<'a> {
    head: &'a [u8],
    is_big_endian: bool,
}

impl Fields<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        if let Some(found) = self.head.get(at..at + N) {
            bytes.copy_from_slice(found);
        }
        if self.is_big_endian {
            bytes.reverse();
        }
        bytes
    }

    fn int(&self, at: usize, size: usize) -> i64 {
        match size {
            2 => i16::from_le_bytes(self.bytes(at)).into(),
            4 => i32::from_le_bytes(self.bytes(at)).into(),
            _ => i64::from_le_bytes(self.bytes(at)),
        }
    }

    fn float(&self, at: usize, size: usize) -> f64 {
        if size == 4 { f32::from_le_bytes(self.bytes(at)).into() } else { f64::from_le_bytes(self.bytes(at)) }
    }
}

/// Where the two versions have their fields.
struct Places {
    is_second: bool,
    /// Bytes of a number: dimensions, others, codes.
    dim: (usize, usize),
    float: usize,
    datatype: usize,
    pixdim: usize,
    offset: usize,
    slope: usize,
    qform: usize,
    code: usize,
    quatern: usize,
    srow: usize,
}

const FIRST: Places = Places {
    is_second: false,
    dim: (40, 2),
    float: 4,
    datatype: 70,
    pixdim: 76,
    offset: 108,
    slope: 112,
    qform: 252,
    code: 2,
    quatern: 256,
    srow: 280,
};
const SECOND: Places = Places {
    is_second: true,
    dim: (16, 8),
    float: 8,
    datatype: 12,
    pixdim: 104,
    offset: 168,
    slope: 176,
    qform: 344,
    code: 4,
    quatern: 352,
    srow: 400,
};

impl Header {
    /// # Errors
    /// No NIfTI in one file, a type of voxels that is not read, a side of nothing or of more than any volume has.
    pub fn read(head: &[u8]) -> Result<Self> {
        let places = if is_second(head) { &SECOND } else { &FIRST };
        let size: i32 = if places.is_second { 540 } else { 348 };
        let is_big_endian = head.starts_with(&size.to_be_bytes());
        let magic = if places.is_second { head.get(4..8) } else { head.get(344..348) };
        let is_start = is_big_endian || head.starts_with(&size.to_le_bytes());
        ensure!(
            magic != Some(b"ni1\0") && magic != Some(b"ni2\0"),
            "is a NIfTI header whose voxels lie in an .img file; save both as one .nii"
        );
        ensure!(
            is_start && matches!(magic, Some(b"n+1\0" | b"n+2\0")),
            "is no NIfTI file; known are NIfTI-1 and NIfTI-2 in one file"
        );
        let fields = Fields { head, is_big_endian };
        let (shape, times) = sides(&fields, places)?;
        let float = |at: usize| fields.float(at, places.float);
        let (slope, intercept) = (float(places.slope), float(places.slope + places.float));
        let (slope, intercept) = if slope == 0.0 || !slope.is_finite() { (1.0, 0.0) } else { (slope, intercept) };
        ensure!(
            intercept.is_finite(),
            "has scl_slope {slope} and scl_inter {intercept}; allowed is a finite scl_inter, or scl_slope 0"
        );
        let number = number(fields.int(places.datatype, 2))?;
        // Some programs leave it 0.
        let bitpix = u64::try_from(fields.int(places.datatype + 2, 2)).ok();
        let bitpix = bitpix.filter(|&bits| bits != 0 && bits != 8 * number.size() as u64);
        let offset = offset(&fields, places, u64::from(size.unsigned_abs()) + 4)?;
        let (affine, is_known) = affine(&fields, places, shape)?;
        let geometry = Geometry { shape, affine, is_known, order: Order::default() };
        let coding = Coding { number, is_big_endian, slope, intercept };
        let header = Self { geometry, times, coding, offset, bitpix };
        header.geometry.check()?;
        Ok(header)
    }

    fn plane_bytes(&self) -> u64 {
        let [width, height, _] = self.geometry.shape;
        (width * height * self.coding.number.size()) as u64
    }

    fn volume_bytes(&self) -> u64 {
        self.plane_bytes() * self.geometry.shape[2] as u64
    }
}

/// Where voxels begin: not before `least`, behind the header and the four bytes that end it. As nibabel has it, but
/// that 0 means right behind these, as it does to the programs that write it, and not the file's first byte.
fn offset(fields: &Fields, places: &Places, least: u64) -> Result<u64> {
    let said = match places.is_second {
        true => Ok(fields.int(places.offset, 8)),
        false => match fields.float(places.offset, places.float) {
            // Of more the file has not that many bytes either.
            said if said.is_finite() => Ok(said as i64),
            said => Err(said),
        },
    };
    match said {
        Ok(0) => Ok(least),
        Ok(said) if said >= least as i64 => Ok(said as u64),
        Ok(said) => bail!("has vox_offset {said}, where voxels begin; allowed are 0 and from {least} on"),
        Err(said) => bail!("has vox_offset {said}, where voxels begin; allowed are 0 and from {least} on"),
    }
}

fn sides(fields: &Fields, places: &Places) -> Result<([usize; 3], usize)> {
    let (at, size) = places.dim;
    let dim = |i: usize| fields.int(at + i * size, size);
    let count = dim(0);
    ensure!((1..=7).contains(&count), "has dim[0] = {count}; allowed are 1 to 7");
    let side = |i: usize| if i as i64 <= count { dim(i) } else { 1 };
    let shape = geometry::sides([1, 2, 3].map(side))?;
    let times = (4..8).try_fold(1i64, |product, i| product.checked_mul(side(i)).filter(|n| (1..1 << 31).contains(n)));
    let times = times.context("claims no points in time, or more than any file holds")?;
    Ok((shape, times as usize))
}

fn number(datatype: i64) -> Result<Number> {
    Ok(match datatype {
        2 => Number::U8,
        4 => Number::I16,
        8 => Number::I32,
        16 => Number::F32,
        64 => Number::F64,
        256 => Number::I8,
        512 => Number::U16,
        768 => Number::U32,
        1024 => Number::I64,
        1280 => Number::U64,
        32 | 1792 | 2048 => bail!("has complex voxels, which make no picture"),
        128 | 2304 => bail!("has voxels of colours, which no window fits"),
        other => bail!("has data type {other}, which is not read; known are whole numbers and floats up to 64 bits"),
    })
}

/// As nibabel's `get_best_affine`: the sform, else the qform, else voxel sizes with the first axis to the left and the
/// origin in the middle; and whether there was one of the forms.
fn affine(fields: &Fields, places: &Places, shape: [usize; 3]) -> Result<([[f64; 4]; 3], bool)> {
    let float = |at: usize, i: usize| fields.float(at + i * places.float, places.float);
    if fields.int(places.qform + places.code, places.code) > 0 {
        return Ok(([0, 1, 2].map(|row| [0, 1, 2, 3].map(|i| float(places.srow, 4 * row + i))), true));
    }
    let pixdim = [1, 2, 3].map(|i| float(places.pixdim, i));
    ensure!(pixdim.iter().all(|size| *size > 0.0), "has voxels of {} × {} × {} mm", pixdim[0], pixdim[1], pixdim[2]);
    if fields.int(places.qform, places.code) > 0 {
        let rotation = rotation([0, 1, 2].map(|i| float(places.quatern, i)))?;
        let sign = if float(places.pixdim, 0) < 0.0 { -1.0 } else { 1.0 };
        let scale = [pixdim[0], pixdim[1], sign * pixdim[2]];
        let row = |r: usize| {
            let [x, y, z] = [0, 1, 2].map(|axis| rotation[r][axis] * scale[axis]);
            [x, y, z, float(places.quatern, 3 + r)]
        };
        return Ok(([row(0), row(1), row(2)], true));
    }
    let steps = [-pixdim[0], pixdim[1], pixdim[2]];
    let row = |r: usize| {
        let mut row = [0.0; 4];
        row[r] = steps[r];
        row[3] = -steps[r] * (shape[r] as f64 - 1.0) / 2.0;
        row
    };
    Ok(([row(0), row(1), row(2)], false))
}

/// Of a unit quaternion whose first number is what the three others leave.
fn rotation([b, c, d]: [f64; 3]) -> Result<[[f64; 3]; 3]> {
    let rest = 1.0 - (b * b + c * c + d * d);
    // As nibabel: rounding of 32 bits.
    ensure!(rest >= -3.6e-7, "its qform is no rotation");
    let a = rest.max(0.0).sqrt();
    Ok([
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - c * c - b * b],
    ])
}
