//! Lookup tables of DICOM: a descriptor of three numbers (entries, first value, bits) and the entries.

use anyhow::{Result, bail, ensure};

use super::elements::Object;
use super::tags::Tag;
use super::walk::Held;

/// Values from `first` on to entries; what is below or above takes the first or last.
pub(super) struct Lut {
    first: i32,
    pub bits: u32,
    entries: Vec<u16>,
}

impl Lut {
    /// `signed`: whether the descriptor's first value may be negative.
    pub fn read(object: &Object, descriptor: Tag, data: Tag, signed: bool) -> Result<Self> {
        let d = object.words(descriptor, 4);
        ensure!(d.len() == 3, "a lookup table's descriptor has {} numbers, not 3", d.len());
        let count = if d[0] == 0 { 1 << 16 } else { usize::from(d[0]) };
        let first = if signed { i32::from(d[1] as i16) } else { i32::from(d[1]) };
        let bits = u32::from(d[2]).clamp(1, 16);
        let Some((Held::Bytes(place), _)) = object.held(data) else { bail!("a lookup table has no entries") };
        let bytes = object.part(place);
        let entries: Vec<u16> = match bytes.len() {
            len if len >= 2 * count => object.words(data, count),
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
