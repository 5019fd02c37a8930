//! Voxels that lie in a file one after another, plain or packed.

use std::io::{BufRead, ErrorKind, Read, Seek, SeekFrom};

use anyhow::{Result, anyhow};
use flate2::bufread::GzDecoder;

use super::numbers::Coding;
use super::planes::Planes;

/// What is read from any place.
pub(super) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// What the members of a gzip file hold, one after another (RFC 1952). As gzip and nibabel do, it ends where behind a
/// whole member, whose checksum was right, no other begins: padding and whatever else stands there is passed over. A
/// member that begins and is cut off within its header is none of that.
pub(super) struct Gzip<R> {
    /// `None` after the end.
    member: Option<GzDecoder<R>>,
    is_first: bool,
    /// Whether a member's mark stands where this one begins.
    is_marked: bool,
    /// Members in a row that hold nothing.
    empty: usize,
}

/// Most members of a gzip file in a row that hold nothing: each takes an inflater of its own.
const MOST_EMPTY: usize = 1000;

impl<R: BufRead> Gzip<R> {
    pub fn new(packed: R) -> Self {
        Self { member: Some(GzDecoder::new(packed)), is_first: true, is_marked: true, empty: 0 }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while let Some(member) = self.member.as_mut().filter(|_| !into.is_empty()) {
            match member.read(into) {
                Ok(0) => {
                    self.empty += 1;
                    if self.empty > MOST_EMPTY {
                        return Err(ErrorKind::InvalidData.into());
                    }
                    let Some(mut packed) = self.member.take().map(GzDecoder::into_inner) else { break };
                    // Of a buffer that ends within the mark, its first byte.
                    self.is_marked = packed.fill_buf().is_ok_and(|head| matches!(head, [0x1f] | [0x1f, 0x8b, ..]));
                    (self.member, self.is_first) = (Some(GzDecoder::new(packed)), false);
                }
                Err(error) if !self.is_first && member.header().is_none() && is_no_member(&error, self.is_marked) => {
                    self.member = None;
                }
                read => {
                    self.empty = 0;
                    return read;
                }
            }
        }
        Ok(0)
    }
}

/// Whether an error says that no member begins there, and not that a disk failed, or that one is cut off whose mark is
/// there.
fn is_no_member(error: &std::io::Error, is_marked: bool) -> bool {
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::InvalidData => true,
        ErrorKind::UnexpectedEof => !is_marked,
        _ => false,
    }
}

/// A file, or what it unpacks to.
pub(super) enum Bytes {
    Plain(Box<dyn ReadSeek>),
    /// With the place that was reached.
    Packed(Box<dyn Read>, u64),
}

impl Bytes {
    /// Of what is packed only what lies behind the last read.
    pub fn read_at(&mut self, place: u64, into: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::Plain(file) => {
                file.seek(SeekFrom::Start(place))?;
                file.read_exact(into)
            }
            Self::Packed(unpacked, at) => {
                let skip = place.checked_sub(*at).ok_or(ErrorKind::InvalidInput)?;
                let skipped = std::io::copy(&mut unpacked.by_ref().take(skip), &mut std::io::sink())?;
                *at += skipped;
                if skipped < skip {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                unpacked.read_exact(into)?;
                *at += into.len() as u64;
                Ok(())
            }
        }
    }

    /// As many of the first bytes as there are, `most` at most.
    pub fn start(&mut self, most: usize) -> std::io::Result<Vec<u8>> {
        let mut head = Vec::with_capacity(most);
        match self {
            Self::Plain(file) => {
                file.seek(SeekFrom::Start(0))?;
                file.take(most as u64).read_to_end(&mut head)?;
            }
            Self::Packed(unpacked, at) => *at += unpacked.take(most as u64).read_to_end(&mut head)? as u64,
        }
        Ok(head)
    }

    /// Unpacks what is left of what is packed, so that its length and checksum are held against what was read.
    fn finish(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Packed(unpacked, at) => {
                *at += std::io::copy(unpacked, &mut std::io::sink())?;
                Ok(())
            }
        }
    }
}

/// Planes one after another.
pub(super) struct Stored {
    bytes: Bytes,
    /// Where the first begins.
    offset: u64,
    coding: Coding,
    planes: usize,
    /// One plane as the file has it.
    raw: Vec<u8>,
}

impl Stored {
    pub fn new(bytes: Bytes, offset: u64, coding: Coding, [width, height, planes]: [usize; 3]) -> Self {
        Self { bytes, offset, coding, planes, raw: vec![0; width * height * coding.number.size()] }
    }
}

impl Planes for Stored {
    fn read(&mut self, k: usize, plane: &mut Vec<f32>) -> Result<()> {
        let place = self.offset + k as u64 * self.raw.len() as u64;
        self.bytes.read_at(place, &mut self.raw).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                anyhow!("is truncated: it ends in plane {} of {}; copy it anew", k + 1, self.planes)
            }
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                anyhow!("is broken: it cannot be unpacked; copy it anew")
            }
            _ => error.into(),
        })?;
        self.coding.values(&self.raw, plane)
    }

    fn finish(&mut self) -> Result<()> {
        self.bytes.finish().map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => anyhow!("is truncated: it ends before its checksum; copy it anew"),
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                anyhow!(
                    "is broken: it cannot be unpacked to its end, or its checksum is not that of what it holds; copy \
                     it anew"
                )
            }
            _ => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use super::*;

    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn a_member_that_is_cut_off_in_its_header_is_no_padding() {
        let read = |behind: &[u8]| {
            let mut all = Vec::new();
            let packed = [&member(b"ab"), behind].concat();
            Gzip::new(&packed[..]).read_to_end(&mut all).map(|_| all).map_err(|error| error.kind())
        };
        for padding in [&b""[..], &[0], &[0; 9], &[0; 600], b"a note", b"a note that is longer than a header"] {
            assert_eq!(read(padding).unwrap(), b"ab", "{padding:?}");
        }
        for length in 1..10 {
            assert_eq!(read(&member(b"c")[..length]), Err(ErrorKind::UnexpectedEof), "{length}");
        }
        assert_eq!(read(&member(b"c")).unwrap(), b"abc");
    }

    #[test]
    fn members_that_hold_nothing_are_bounded_and_a_disk_that_fails_is_no_end() {
        let with = |empty: usize| [member(b"ab"), member(b"").repeat(empty), member(b"c")].concat();
        let mut all = Vec::new();
        Gzip::new(&with(MOST_EMPTY - 1)[..]).read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
        let error = Gzip::new(&with(MOST_EMPTY + 1)[..]).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);

        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("the disk"))
            }
        }
        let whole = member(b"ab");
        let mut behind = Vec::new();
        let error = Gzip::new(BufReader::new(whole.as_slice().chain(Fails))).read_to_end(&mut behind).unwrap_err();
        assert_eq!((error.to_string().as_str(), &behind[..]), ("the disk", &b"ab"[..]));
    }
}
