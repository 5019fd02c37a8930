//! A DICOM file (PS3.10): how its data set is written, and the data set's bytes, inflated where they are deflated.

use std::borrow::Cow;
use std::io::Read;

use anyhow::{Context, Result, anyhow, ensure};

use super::super::budget::most;
use super::elements::{Encoding, Object, PixelsAt};
use super::tags::{self, Tag};
use crate::error::shown;

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
    data: Cow<'a, [u8]>,
    taken: u64,
}

impl DicomFile<'static> {
    /// [`Self::open`] of a file that is kept.
    ///
    /// # Errors
    /// As there.
    pub fn open_kept(mut bytes: Vec<u8>) -> Result<Self> {
        let DicomFile { syntax, encoding, data, taken } = DicomFile::open(&bytes)?;
        let data = match data {
            Cow::Owned(inflated) => inflated,
            Cow::Borrowed(rest) => {
                let start = bytes.len() - rest.len();
                bytes.drain(..start);
                bytes
            }
        };
        Ok(Self { syntax, encoding, data: Cow::Owned(data), taken })
    }
}

impl<'a> DicomFile<'a> {
    /// # Errors
    /// No DICOM file, broken, or one that inflates to more than an image may take.
    pub fn open(bytes: &'a [u8]) -> Result<Self> {
        ensure!(is_dicom(bytes), "is no DICOM file: DICM does not stand at byte 128");
        let (meta, rest) = Object::meta(&bytes[PREAMBLE..])?;
        let syntax = meta.text(tags::TRANSFER_SYNTAX);
        let syntax = syntax.context("is broken or truncated DICOM: it names no transfer syntax")?;
        let (explicit, big_endian) = (syntax != "1.2.840.10008.1.2", syntax == "1.2.840.10008.1.2.2");
        let data = match &syntax[..] {
            "1.2.840.10008.1.2.1.99" => Cow::Owned(inflated(rest)?),
            _ => Cow::Borrowed(rest),
        };
        let taken = if matches!(data, Cow::Owned(_)) { data.len() as u64 } else { 0 };
        Ok(Self { syntax, encoding: Encoding { explicit, big_endian }, data, taken })
    }

    /// The elements.
    ///
    /// # Errors
    /// They are broken.
    pub fn object(&self) -> Result<Object<'_>> {
        Object::read(&self.data, self.encoding)
    }

    /// The elements before the pixels, which may be cut off.
    ///
    /// # Errors
    /// They are broken.
    pub fn object_without_pixels(&self) -> Result<Object<'_>> {
        Object::read_before_pixels(&self.data, self.encoding)
    }

    /// Whether the elements before the pixels are all there.
    pub fn reaches_pixels(&self) -> bool {
        Object::reaches_pixels(&self.data, self.encoding)
    }

    /// Where the pixels begin among the elements, where these are written with the low byte first and not deflated;
    /// `None` where they cannot be told from the bytes that there are.
    pub fn pixels(&self) -> Option<PixelsAt> {
        let is_plain = matches!(self.data, Cow::Borrowed(_)) && !self.encoding.big_endian;
        is_plain.then(|| Object::pixels(&self.data, self.encoding)).flatten()
    }

    /// Bytes of the elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Bytes that were taken to inflate the data set.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The UID for messages.
    pub fn syntax_name(&self) -> String {
        shown(&self.syntax)
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
