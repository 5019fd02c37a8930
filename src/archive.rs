//! Zip archives as PyTorch and NumPy write them, by their directory. An entry that is stored, not compressed, is a
//! range of the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use crate::error::shown;

/// Longest directory that is read; one of a hundred thousand entries has some 10 MB.
const MAX_DIRECTORY: u64 = 64 << 20;

/// End of the directory, with a comment of up to 64 KiB behind it.
const END: &[u8] = b"PK\x05\x06";
const END_LENGTH: usize = 22;
/// Where the end of 64 bits is; before the other.
const LOCATOR: &[u8] = b"PK\x06\x07";
const LOCATOR_LENGTH: usize = 20;
const END_64: &[u8] = b"PK\x06\x06";
const END_64_LENGTH: usize = 56;
const ENTRY: &[u8] = b"PK\x01\x02";
const ENTRY_LENGTH: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_LENGTH: usize = 30;

/// An entry of the directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Of its local header.
    header: u64,
    /// Unpacked.
    pub length: u64,
    /// In the file.
    stored: u64,
    /// By deflate.
    pub is_packed: bool,
    crc: u32,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<u64> {
    let part: [u8; N] = bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().context("it ends early")?;
    Ok(part.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)))
}

/// `length` bytes from `at` on.
pub(crate) fn read_at(file: &mut File, at: u64, length: usize) -> Result<Vec<u8>> {
    let all = file.metadata()?.len();
    let inside = at.checked_add(length as u64).is_some_and(|end| end <= all);
    ensure!(inside, "it is cut off: bytes {at} to {} of {all} are wanted", at.saturating_add(length as u64));
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// All entries by name.
///
/// # Errors
/// No archive, an entry that is encrypted, or compressed by something else than deflate.
pub(crate) fn entries(file: &mut File) -> Result<HashMap<String, Entry>> {
    let (at, length) = directory(file)?;
    ensure!(length <= MAX_DIRECTORY, "the archive's directory has {length} bytes; allowed are {MAX_DIRECTORY}");
    let bytes = read_at(file, at, length as usize)?;
    let mut rest = bytes.as_slice();
    let mut found = HashMap::new();
    while rest.starts_with(ENTRY) {
        let size = |at: usize| Ok::<usize, anyhow::Error>(number::<2>(rest, at)? as usize);
        let (name, extra, comment) = (size(28)?, size(30)?, size(32)?);
        let (flags, method) = (number::<2>(rest, 8)?, number::<2>(rest, 10)?);
        let end = ENTRY_LENGTH + name + extra;
        let extra = rest.get(ENTRY_LENGTH + name..end).context("it ends early")?;
        let name = String::from_utf8_lossy(&rest[ENTRY_LENGTH..ENTRY_LENGTH + name]).into_owned();
        ensure!(
            matches!(method, 0 | 8) && flags & 1 == 0,
            "{} in it is encrypted, or compressed by another method than deflate",
            shown(&name)
        );
        let is_packed = method == 8;
        let narrow = [number::<4>(rest, 24)?, number::<4>(rest, 20)?, number::<4>(rest, 42)?];
        let [length, stored, header] = wide(narrow, extra)?;
        ensure!(is_packed || length == stored, "an entry has two lengths, {length} and {stored}");
        found.insert(name, Entry { header, length, stored, is_packed, crc: number::<4>(rest, 16)? as u32 });
        rest = rest.get(end + comment..).context("it ends early")?;
    }
    Ok(found)
}

/// Numbers that are too large for 32 bits stand in an extra field, in this order.
fn wide(mut numbers: [u64; 3], mut extra: &[u8]) -> Result<[u64; 3]> {
    while extra.len() >= 4 {
        let (kind, length) = (number::<2>(extra, 0)?, number::<2>(extra, 2)? as usize);
        let field = extra.get(4..4 + length).context("it ends early")?;
        if kind == 1 {
            let too_large = numbers.iter_mut().filter(|n| **n == u64::from(u32::MAX));
            for (i, value) in too_large.enumerate() {
                *value = number::<8>(field, 8 * i)?;
            }
        }
        extra = &extra[4 + length..];
    }
    Ok(numbers)
}

/// Where the directory begins, and how long it is.
fn directory(file: &mut File) -> Result<(u64, u64)> {
    let all = file.metadata()?.len();
    let tail_length = all.min((END_LENGTH + LOCATOR_LENGTH + usize::from(u16::MAX)) as u64);
    let tail = read_at(file, all - tail_length, tail_length as usize)?;
    let ends = tail.windows(END.len()).rposition(|window| window == END);
    let end = ends.context("it has no directory: it is cut off")?;
    let locator = end.checked_sub(LOCATOR_LENGTH).map(|at| &tail[at..end]).filter(|l| l.starts_with(LOCATOR));
    match locator {
        None => Ok((number::<4>(&tail, end + 16)?, number::<4>(&tail, end + 12)?)),
        Some(locator) => {
            let end = read_at(file, number::<8>(locator, 8)?, END_64_LENGTH)?;
            ensure!(end.starts_with(END_64), "its directory is not where it says");
            Ok((number::<8>(&end, 48)?, number::<8>(&end, 40)?))
        }
    }
}

impl Entry {
    /// The range of the file that is its content.
    ///
    /// # Errors
    /// It leaves the file, or is compressed.
    pub fn range(&self, file: &mut File) -> Result<Range<u64>> {
        ensure!(!self.is_packed, "an entry is compressed, which PyTorch never does");
        self.place(file)
    }

    /// The range of the file that holds it, as it is stored.
    ///
    /// # Errors
    /// It leaves the file.
    pub fn place(&self, file: &mut File) -> Result<Range<u64>> {
        let local = read_at(file, self.header, LOCAL_LENGTH)?;
        ensure!(local.starts_with(LOCAL), "an entry is not where the directory says");
        let before = LOCAL_LENGTH as u64 + number::<2>(&local, 26)? + number::<2>(&local, 28)?;
        let start = self.header.saturating_add(before);
        let end = start.saturating_add(self.stored);
        let all = file.metadata()?.len();
        ensure!(end <= all, "it is cut off: an entry ends at byte {end} of {all}");
        Ok(start..end)
    }

    /// Its content, which may have up to `most` bytes.
    ///
    /// # Errors
    /// It is longer, or is not what its checksum says.
    pub fn read(&self, file: &mut File, most: u64) -> Result<Vec<u8>> {
        ensure!(self.length <= most, "an entry has {} bytes; allowed are {most}", self.length);
        let range = self.range(file)?;
        let bytes = read_at(file, range.start, self.length as usize)?;
        let mut crc = flate2::Crc::new();
        crc.update(&bytes);
        ensure!(crc.sum() == self.crc, "an entry is not what its checksum says: the file is damaged");
        Ok(bytes)
    }
}
