//! What a header says of its pixels' values: how many bits of each count, whether with a sign; how many frames there
//! are (PS3.3 C.7.6.3 and C.7.6.6, PS3.5 8.1.1). What no value can be is refused: each program reads it as something
//! else.

use anyhow::{Context, Result, ensure};

use super::elements::Object;
use super::tags::{self, Tag};
use crate::error::shown;

/// Which bits of a value that takes `BitsAllocated` count: the lowest. In those above old files keep overlays. HighBit
/// is passed over, as pydicom does: programs that change BitsStored leave it as it was.
#[derive(Debug)]
pub(super) struct Bits {
    /// How many.
    pub stored: u32,
    pub signed: bool,
}

impl Bits {
    /// `is_coded`: a decoder gives whole values, which are as they are whatever the header has room for.
    ///
    /// # Errors
    /// BitsStored or PixelRepresentation are none that there are.
    pub fn read(object: &Object, allocated: usize, is_coded: bool) -> Result<Self> {
        let stored = match object.number(tags::BITS_STORED) {
            Some(n) if is_coded && n > allocated as f64 => allocated,
            _ => within(object, tags::BITS_STORED, "BitsStored", (1, allocated))?.unwrap_or(allocated),
        };
        let signed = within(object, tags::REPRESENTATION, "PixelRepresentation", (0, 1))? == Some(1);
        Ok(Self { stored: stored as u32, signed })
    }

    /// The number that a value's bits stand for.
    pub fn value(&self, raw: u32) -> i32 {
        number(raw, self.stored, self.signed)
    }
}

/// The number that the lowest `bits` of `raw` stand for.
pub(super) fn number(raw: u32, bits: u32, signed: bool) -> i32 {
    let shift = 32 - bits.clamp(1, 32);
    if signed { ((raw << shift) as i32) >> shift } else { ((raw << shift) >> shift) as i32 }
}

/// Frames of a file; 1 where it does not say, or says 0.
///
/// # Errors
/// It says a number that none can be.
pub(super) fn frames(object: &Object) -> Result<usize> {
    let Some(n) = object.number(tags::FRAMES) else { return Ok(1) };
    let is_count = n >= 0.0 && n.fract() == 0.0;
    ensure!(is_count, "says NumberOfFrames {}; allowed are whole numbers from 1 on", shown(&n.to_string()));
    Ok((n as usize).max(1))
}

/// What the values mean; where a file does not say it, has one value a pixel and no palette, MONOCHROME2.
///
/// # Errors
/// Nothing says it.
pub(super) fn photometric(object: &Object, samples: usize) -> Result<String> {
    let is_gray = samples == 1 && tags::PALETTES.iter().all(|(_, data)| object.held(*data).is_none());
    object.text(tags::PHOTOMETRIC).or_else(|| is_gray.then(|| "MONOCHROME2".into())).context(
        "does not say its PhotometricInterpretation; allowed are MONOCHROME1, MONOCHROME2, RGB, YBR and PALETTE COLOR",
    )
}

/// Of pixels of a bit each there may be fewer bytes than pixels, or what each frame takes that begins at a word: else
/// pixels are bytes, and others than the header says.
///
/// # Errors
/// There is a byte a pixel.
pub(super) fn check_single(bytes: usize, bits: usize, frames: usize) -> Result<()> {
    let needed = bits.saturating_mul(frames).div_ceil(8);
    // So few may be all padding.
    let in_words = bits.div_ceil(16).saturating_mul(2).saturating_mul(frames);
    ensure!(
        bytes <= in_words || bytes < bits.saturating_mul(frames),
        "says BitsAllocated 1 and has {bytes} bytes of pixels, where that takes {needed}; allowed is one bit a pixel"
    );
    Ok(())
}

/// A whole number within bounds, where it stands there.
fn within(object: &Object, tag: Tag, name: &str, (least, most): (usize, usize)) -> Result<Option<usize>> {
    let Some(n) = object.number(tag) else { return Ok(None) };
    let is_allowed = n.fract() == 0.0 && (least as f64..=most as f64).contains(&n);
    let allowed = if least == most { format!("is {most}") } else { format!("are {least} to {most}") };
    ensure!(is_allowed, "says {name} {}; allowed {allowed}", shown(&n.to_string()));
    Ok(Some(n as usize))
}

#[cfg(test)]
mod tests {
    use crate::data::image::dicom;

    /// Number within group 0028, VR and value.
    type Element<'a> = (u16, &'a [u8; 2], &'a [u8]);

    /// Three pixels of 16 bits in a row; `with`: instead of, or beside, what is usual.
    fn file(with: &[Element], pixels: &[u8]) -> Vec<u8> {
        let mut bytes = [&[0; 128], &b"DICM\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"[..]].concat();
        let usual: [Element; 7] = [
            (0x04, b"CS", b"MONOCHROME2 "),
            (0x10, b"US", &[1, 0]),
            (0x11, b"US", &[3, 0]),
            (0x100, b"US", &[16, 0]),
            (0x101, b"US", &[12, 0]),
            (0x102, b"US", &[11, 0]),
            (0x103, b"US", &[0, 0]),
        ];
        let others = usual.iter().filter(|(element, ..)| with.iter().all(|(own, ..)| own != element));
        for (element, kind, value) in others.chain(with) {
            bytes.extend([&0x28u16.to_le_bytes(), &element.to_le_bytes(), &kind[..]].concat());
            bytes.extend([&(value.len() as u16).to_le_bytes(), *value].concat());
        }
        bytes.extend([&b"\xe0\x7f\x10\0OW\0\0"[..], &(pixels.len() as u32).to_le_bytes(), pixels].concat());
        bytes
    }

    const PIXELS: [u8; 6] = [0x23, 0x81, 0x56, 0xf4, 0xff, 0x0f];

    fn told(with: &[Element], pixels: &[u8]) -> String {
        format!("{:#}", dicom::decode(&file(with, pixels), 0).unwrap_err())
    }

    /// As pydicom's `correct_unused_bits`, which passes over HighBit.
    #[test]
    fn bits_that_no_value_is_stored_in_change_nothing() {
        let stored = |with: &[_], pixels: &[u8]| dicom::stored(&file(with, pixels), 0).unwrap().values;
        assert_eq!(stored(&[], &PIXELS), [0x123, 0x456, 0xfff]);
        assert_eq!(stored(&[(0x103, b"US", &[1, 0])], &PIXELS), [0x123, 0x456, -1]);
        for high in [&[0, 0], &[10, 0], &[15, 0], &[16, 0]] {
            assert_eq!(stored(&[(0x102, b"US", &high[..])], &PIXELS), [0x123, 0x456, 0xfff], "HighBit {high:?}");
        }
        let shown = |pixels: &[u8]| dicom::decode(&file(&[], pixels), 0).unwrap();
        assert_eq!(shown(&PIXELS), shown(&[0x23, 0x01, 0x56, 0x04, 0xff, 0x0f]));
    }

    #[test]
    fn headers_that_say_what_cannot_be_are_told_with_what_may() {
        let cases: [(&[Element], &str); 7] = [
            (&[(0x101, b"US", &[0, 0])], "says BitsStored 0; allowed are 1 to 16"),
            (&[(0x101, b"US", &[17, 0])], "says BitsStored 17; allowed are 1 to 16"),
            (&[(0x103, b"US", &[7, 0])], "says PixelRepresentation 7; allowed are 0 to 1"),
            (&[(0x08, b"IS", b"-1")], "says NumberOfFrames -1; allowed are whole numbers from 1 on"),
            (&[(0x08, b"DS", b"1.5 ")], "says NumberOfFrames 1.5; allowed are whole numbers from 1 on"),
            (
                &[(0x02, b"US", &[3, 0]), (0x04, b"CS", b"")],
                "does not say its PhotometricInterpretation; allowed are MONOCHROME1,",
            ),
            (
                &[(0x1052, b"DS", b"1e308 "), (0x1053, b"DS", b"1e308 ")],
                "has RescaleSlope 1e308 and RescaleIntercept 1e308",
            ),
        ];
        for (with, wanted) in cases {
            let told = told(with, &PIXELS);
            assert!(told.contains(wanted), "{told}");
        }
        // As real files have it, that say nothing of a second frame.
        assert!(dicom::decode(&file(&[(0x08, b"IS", b"0 ")], &PIXELS), 0).is_ok());
        assert!(dicom::decode(&file(&[(0x08, b"IS", b"")], &PIXELS), 0).is_ok());
        let unsaid = dicom::decode(&file(&[(0x04, b"CS", b"")], &PIXELS), 0).unwrap();
        assert_eq!(unsaid, dicom::decode(&file(&[], &PIXELS), 0).unwrap());
        let told = |n: &[u8]| format!("{:#}", dicom::place(&file(&[(0x08, b"DS", n)], &PIXELS)).unwrap_err());
        assert!(told(b"-1").contains("says NumberOfFrames -1;") && told(b"1.5 ").contains("says NumberOfFrames 1.5;"));
    }

    /// Padding is as the file has it, and pixels are without the bits that do not count.
    #[test]
    fn padding_is_cut_to_the_bits_that_count_as_pixels_are() {
        let window: [Element; 2] = [(0x1050, b"DS", b"2048"), (0x1051, b"DS", b"4096")];
        let shown = |padding: [u8; 2], pixels: &[u8]| {
            let with = [window[0], window[1], (0x120, b"US", &padding[..])];
            dicom::decode(&file(&with, pixels), 0).unwrap().bytes
        };
        let pixels = [0xff, 0xff, 0x30, 0xf8, 0x00, 0x04];
        assert_eq!(shown([0xff, 0xff], &pixels)[0], 0);
        assert_eq!(shown([0x30, 0xf8], &pixels)[1], 0);
        assert!(shown([0xff, 0xff], &pixels)[1..].iter().all(|&byte| byte > 0));
    }

    /// Decoders give whole values, whatever the header says of bits.
    #[test]
    fn more_bits_than_are_allocated_or_another_high_bit_change_no_coded_pixels() {
        for name in ["j2k_8", "jls_8", "jpeg_8", "ljpeg_8"] {
            let path = format!("{}/tests/golden/dicom/{name}.dcm", env!("CARGO_MANIFEST_DIR"));
            let bytes = std::fs::read(path).unwrap();
            let said = |element: u8| [0x28, 0, element, 1, b'U', b'S', 2, 0];
            let mut other = bytes.clone();
            for (element, number) in [(1, 12), (2, 15)] {
                let at = bytes.windows(8).position(|at| at == said(element)).unwrap();
                other[at + 8] = number;
            }
            assert!(dicom::stored(&other, 0).unwrap() == dicom::stored(&bytes, 0).unwrap(), "{name}");
        }
    }

    #[test]
    fn bytes_where_bits_should_be_are_told() {
        let with: [(u16, &[u8; 2], &[u8]); 4] =
            [(0x11, b"US", &[24, 0]), (0x100, b"US", &[1, 0]), (0x101, b"US", &[1, 0]), (0x102, b"US", &[0, 0])];
        assert_eq!(dicom::stored(&file(&with, &[1, 2, 4, 0]), 0).unwrap().values.iter().sum::<i32>(), 3);
        assert!(told(&with, &[1; 24]).contains("says BitsAllocated 1 and has 24 bytes of pixels, where that takes 3"));
    }
}
