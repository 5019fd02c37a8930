//! What pages in delta encodings claim (Parquet's Encodings.md): how many lengths follow and how long values grow, read
//! before the `parquet` crate makes room for it.

use parquet::basic::Encoding;

/// Bytes that the values of one reading may grow to.
const MOST_GROWTH: u64 = 1 << 30;

/// Whether an encoding is one of these.
pub(super) fn is_of(encoding: Encoding) -> bool {
    let known = [Encoding::DELTA_BINARY_PACKED, Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY];
    known.contains(&encoding)
}

/// Checks the values of a page of `values` values, of which `at_once` are decoded at once.
///
/// # Errors
/// In words: its header claims more values than the page, or values that repeat each other's beginnings would take too
/// much memory.
pub(super) fn check(bytes: &[u8], encoding: Encoding, values: u64, at_once: u64) -> Result<(), String> {
    let count = match encoding {
        Encoding::DELTA_BINARY_PACKED | Encoding::DELTA_LENGTH_BYTE_ARRAY => Packed::read(bytes).map(|p| p.count),
        Encoding::DELTA_BYTE_ARRAY => {
            let growth = (bytes.len() as u64).saturating_mul(values.min(at_once));
            if growth > MOST_GROWTH {
                return Err(format!("a page of {} bytes may hold values of {growth}", bytes.len()));
            }
            // Lengths of what is repeated, then of what is not.
            Packed::read(bytes).and_then(|first| {
                let second = Packed::read(bytes.get(first.end()?..)?)?;
                Some(first.count.max(second.count))
            })
        }
        _ => return Ok(()),
    };
    // A page of empty values alone may hold nothing.
    let count = if bytes.is_empty() { Some(0) } else { count };
    match count {
        Some(count) if count <= values => Ok(()),
        Some(count) => Err(format!("a page of {values} values claims {count} lengths")),
        None => Err("a page's lengths are cut".to_string()),
    }
}

/// Numbers packed as differences.
struct Packed<'a> {
    bytes: &'a [u8],
    /// Where the blocks begin.
    blocks: usize,
    values_a_part: u64,
    parts: u64,
    count: u64,
}

impl<'a> Packed<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut at = 0;
        let block = varint(bytes, &mut at)?;
        let parts = varint(bytes, &mut at)?;
        let count = varint(bytes, &mut at)?;
        varint(bytes, &mut at)?;
        let values_a_part = block.checked_div(parts).filter(|n| *n > 0)?;
        Some(Self { bytes, blocks: at, values_a_part, parts, count })
    }

    /// Where the bytes behind the numbers begin.
    fn end(&self) -> Option<usize> {
        let mut at = self.blocks;
        let mut left = self.count.saturating_sub(1);
        while left > 0 {
            varint(self.bytes, &mut at)?;
            let widths = self.bytes.get(at..at.checked_add(usize::try_from(self.parts).ok()?)?)?;
            at += widths.len();
            for &width in widths {
                if left == 0 {
                    break;
                }
                let len = self.values_a_part.checked_mul(u64::from(width))? / 8;
                at = at.checked_add(usize::try_from(len).ok()?).filter(|at| *at <= self.bytes.len())?;
                left = left.saturating_sub(self.values_a_part);
            }
        }
        Some(at)
    }
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 128 a block in four parts, three numbers of one bit each after the first.
    const THREE: [u8; 13] = [0x80, 1, 4, 3, 0, 0, 1, 0, 0, 0, 3, 0, 0];

    #[test]
    fn claims_of_lengths_are_held_to_the_page() {
        let of = |bytes: &[u8], encoding, values| check(bytes, encoding, values, 256);
        let huge = [0x80, 1, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0];
        for encoding in [Encoding::DELTA_BINARY_PACKED, Encoding::DELTA_LENGTH_BYTE_ARRAY] {
            assert_eq!(of(&THREE, encoding, 3), Ok(()));
            assert!(of(&THREE, encoding, 2).unwrap_err().contains("claims 3 lengths"));
            assert!(of(&huge, encoding, 1000).unwrap_err().contains("claims"));
            assert!(of(&THREE[..2], encoding, 3).unwrap_err().contains("cut"));
            assert_eq!(of(&[], encoding, 3), Ok(()));
        }
        let both = |second: &[u8]| of(&[&THREE[..], &[0], second].concat(), Encoding::DELTA_BYTE_ARRAY, 3);
        assert_eq!(both(&THREE), Ok(()));
        assert!(both(&huge).unwrap_err().contains("claims"));
        assert!(both(&[]).unwrap_err().contains("cut"));
        let long = vec![0; 8 << 20];
        assert!(of(&long, Encoding::DELTA_BYTE_ARRAY, 1000).unwrap_err().contains("may hold values"));
    }
}
