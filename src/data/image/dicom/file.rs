//! A DICOM file (PS3.10): how its data set is written, and the data set's bytes, inflated where they are deflated.

use std::borrow::Cow;
use std::io::Read;

use anyhow::{Context, Result, anyhow, ensure};

use super::super::budget::most;
use super::elements::{Elements, Object};
use super::tags::{self, Tag};
use super::walk::{Encoding, PixelsAt};

/// Bytes before the elements: 128 of anything and DICM.
const PREAMBLE: usize = 132;

/// Whether `bytes` are a DICOM file.
pub fn is_dicom(bytes: &[u8]) -> bool {
    bytes.get(128..132) == Some(b"DICM")
}

/// SOP Instance UID, as the head has it.
///
/// # Errors
/// No DICOM file, or broken.
pub(super) fn instance(bytes: &[u8]) -> Result<Option<String>> {
    ensure!(is_dicom(bytes), "is no DICOM file: DICM does not stand at byte 128");
    Ok(Object::meta(&bytes[PREAMBLE..])?.0.text(Tag(0x0002, 0x0003)))
}

/// An opened file.
pub(super) struct DicomFile<'a> {
    /// UID that says how elements and pixels are written.
    pub syntax: String,
    encoding: Encoding,
    /// All of the file, or what its elements inflate to.
    bytes: Cow<'a, [u8]>,
    /// Where the elements begin.
    start: usize,
    is_deflated: bool,
}

impl DicomFile<'static> {
    /// [`Self::open`] of a file that is kept.
    ///
    /// # Errors
    /// As there.
    pub fn open_kept(bytes: Vec<u8>) -> Result<Self> {
        Self::of(Cow::Owned(bytes))
    }
}

impl<'a> DicomFile<'a> {
    /// # Errors
    /// No DICOM file, broken, or one that inflates to more than an image may take.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        Self::of(Cow::Borrowed(bytes))
    }

    fn of(bytes: Cow<'a, [u8]>) -> Result<Self> {
        ensure!(is_dicom(&bytes), "is no DICOM file: DICM does not stand at byte 128");
        let (syntax, length) = {
            let (meta, length) = Object::meta(&bytes[PREAMBLE..])?;
            (meta.text(tags::TRANSFER_SYNTAX), length)
        };
        let syntax = syntax.context("is broken or truncated DICOM: it names no transfer syntax")?;
        let (explicit, big_endian) = (syntax != "1.2.840.10008.1.2", syntax == "1.2.840.10008.1.2.2");
        let encoding = Encoding { explicit, big_endian };
        let (start, is_deflated) = (PREAMBLE + length, syntax == "1.2.840.10008.1.2.1.99");
        let (bytes, start) = match is_deflated {
            true => (Cow::Owned(inflated(&bytes[start..])?), 0),
            false => (bytes, start),
        };
        Ok(Self { syntax, encoding, bytes, start, is_deflated })
    }

    /// Bytes of the elements.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The elements.
    ///
    /// # Errors
    /// They are broken.
    pub fn object(&self) -> Result<Object<'_>> {
        Object::read(self.data(), self.encoding)
    }

    /// The elements, of which all before the pixels are known; these begin at byte `at`.
    ///
    /// # Errors
    /// The pixels are broken.
    pub fn object_of(&self, elements: Elements, at: usize) -> Result<Object<'_>> {
        Object::with_pixels(elements, self.data(), at, self.encoding)
    }

    /// The elements before the pixels, which may be cut off, and where these lie; `None` where the bytes do not say.
    ///
    /// # Errors
    /// They are broken.
    pub fn before_pixels(&self) -> Result<(Object<'_>, Option<PixelsAt>)> {
        Object::before_pixels(self.data(), self.encoding)
    }

    /// Whether its elements stand in the file as they are, with the low byte first: frames can be read alone.
    pub fn is_plain(&self) -> bool {
        !self.is_deflated && !self.encoding.big_endian
    }

    /// Where in the file its elements begin, where they are not deflated.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Bytes that were taken to inflate the data set.
    pub fn taken(&self) -> u64 {
        if self.is_deflated { self.bytes.len() as u64 } else { 0 }
    }
}

/// Counted first: a vector that grows would take twice as much.
fn inflated(packed: &[u8]) -> Result<Vec<u8>> {
    let most = most();
    let broken = |_| anyhow!("is broken or truncated DICOM: it cannot be inflated");
    let inflate = || flate2::read::DeflateDecoder::new(packed).take(most + 1);
    let len = std::io::copy(&mut inflate(), &mut std::io::sink()).map_err(broken)?;
    ensure!(len <= most, "inflates to more than {} MiB (data.max_image_mib, --max-image-mib)", most >> 20);
    let mut data = Vec::with_capacity(len as usize);
    inflate().read_to_end(&mut data).map_err(broken)?;
    Ok(data)
}
