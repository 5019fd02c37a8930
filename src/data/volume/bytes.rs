//! Voxels that lie in a file one after another, plain or packed.

use std::io::{ErrorKind, Read, Seek, SeekFrom};

use anyhow::{Result, anyhow};

use super::numbers::Coding;
use super::planes::Planes;

/// What is read from any place.
pub(super) trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

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
            ErrorKind::UnexpectedEof => anyhow!("is truncated: it ends in plane {} of {}", k + 1, self.planes),
            ErrorKind::InvalidInput | ErrorKind::InvalidData => anyhow!("is broken: it cannot be unpacked"),
            _ => error.into(),
        })?;
        self.coding.values(&self.raw, plane)
    }

    fn finish(&mut self) -> Result<()> {
        self.bytes.finish().map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => anyhow!("is truncated: it ends before its checksum"),
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                anyhow!("is broken: it cannot be unpacked to its end, or its checksum is not that of what it holds")
            }
            _ => error.into(),
        })
    }
}
