//! Lookup tables of DICOM: a descriptor of three numbers (entries, first value, bits) and the entries.

use anyhow::{Context, Result, ensure};
use dicom_core::Tag;
use dicom_object::InMemDicomObject;

use super::elements::{numbers, value};

/// Values from `first` on to entries; what is below or above takes the first or last.
pub(super) struct Lut {
    first: i32,
    pub bits: u32,
    entries: Vec<u16>,
}

impl Lut {
    /// `signed`: whether the descriptor's first value may be negative.
    pub fn read(object: &InMemDicomObject, descriptor: Tag, data: Tag, signed: bool) -> Result<Self> {
        let d = numbers(object, descriptor);
        ensure!(d.len() == 3, "a lookup table's descriptor has {} numbers, not 3", d.len());
        let count = if d[0] == 0.0 { 1 << 16 } else { d[0].abs() as usize & 0xffff };
        // A US of 40,000 may have been read as SS, or the other way round.
        let raw = d[1] as i32 as u16;
        let first = if signed { i32::from(raw as i16) } else { i32::from(raw) };
        let bits = (d[2] as u32).clamp(1, 16);
        let bytes = value(object, data).context("a lookup table has no entries")?.to_bytes();
        let bytes = bytes.context("a lookup table's entries cannot be read")?;
        let entries: Vec<u16> = match bytes.len() {
            len if len >= 2 * count => {
                bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).take(count).collect()
            }
            _ => bytes.iter().map(|&b| b.into()).take(count).collect(),
        };
        ensure!(
            !entries.is_empty() && entries.len() == count,
            "a lookup table has {} entries, not {count}",
            entries.len()
        );
        Ok(Self { first, bits, entries })
    }

    pub fn get(&self, value: i32) -> u16 {
        let at = (i64::from(value) - i64::from(self.first)).clamp(0, self.entries.len() as i64 - 1);
        self.entries[at as usize]
    }
}
