//! The header of a page, in Thrift's compact protocol. The `parquet` crate reads it too, but shows nobody what it
//! claims before it has taken the memory.

use parquet::basic::Encoding;

/// What a page says of itself.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PageHeader {
    /// Bytes in the file, behind the header.
    pub packed: usize,
    /// Bytes once they are unpacked.
    pub unpacked: usize,
    /// Values, empty ones included.
    pub values: u32,
    pub encoding: Encoding,
    pub kind: PageKind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum PageKind {
    Dictionary {
        sorted: bool,
    },
    V1 {
        definition: Encoding,
        repetition: Encoding,
    },
    V2(LevelsAside),
    /// Of an index, which nobody needs here.
    Other,
}

/// Levels of a page of the second version, which stand unpacked before its values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LevelsAside {
    pub nulls: u32,
    pub rows: u32,
    pub definition_bytes: u32,
    pub repetition_bytes: u32,
    pub is_compressed: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum HeaderError {
    /// It goes on behind the bytes.
    Short,
    Broken,
}

pub(super) type Result<T> = std::result::Result<T, HeaderError>;

/// Statistics nest three deep; nothing real goes deeper.
const DEEPEST: usize = 8;

/// Items of lists in a header, statistics for instance.
const MOST_ITEMS: u64 = 1 << 20;

/// Integers and truth values of a struct, by field number.
pub(super) type Numbers = [Option<i64>; 10];

// Thrift's kinds of fields.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
pub(super) const STRUCT: u8 = 12;
pub(super) const LIST: u8 = 9;

/// The header that `bytes` begin with, and its length.
pub(super) fn parse(bytes: &[u8]) -> Result<(PageHeader, usize)> {
    let mut input = Compact::new(bytes, MOST_ITEMS);
    let mut own = Numbers::default();
    let (mut v1, mut dictionary, mut v2) = (None, None, None);
    input.fields(DEEPEST, &mut |input, id, kind| {
        let slot = match (id, kind) {
            (5, STRUCT) => &mut v1,
            (7, STRUCT) => &mut dictionary,
            (8, STRUCT) => &mut v2,
            _ => return input.number(id, kind, &mut own),
        };
        *slot = Some(input.numbers()?);
        Ok(true)
    })?;
    let size = |n: Option<i64>| usize::try_from(n.ok_or(HeaderError::Broken)?).map_err(|_| HeaderError::Broken);
    let (packed, unpacked) = (size(own[3])?, size(own[2])?);
    let (fields, kind) = match own[1].ok_or(HeaderError::Broken)? {
        0 => {
            let fields = v1.ok_or(HeaderError::Broken)?;
            (fields, PageKind::V1 { definition: encoding(fields[3])?, repetition: encoding(fields[4])? })
        }
        2 => {
            let fields = dictionary.ok_or(HeaderError::Broken)?;
            (fields, PageKind::Dictionary { sorted: fields[3] == Some(1) })
        }
        3 => {
            let fields = v2.ok_or(HeaderError::Broken)?;
            let levels = LevelsAside {
                nulls: count(fields[2])?,
                rows: count(fields[3])?,
                definition_bytes: count(fields[5])?,
                repetition_bytes: count(fields[6])?,
                is_compressed: fields[7] != Some(0),
            };
            (fields, PageKind::V2(levels))
        }
        _ => {
            let nothing = PageHeader { packed, unpacked, values: 0, encoding: Encoding::PLAIN, kind: PageKind::Other };
            return Ok((nothing, input.at));
        }
    };
    let encoding = encoding(if matches!(kind, PageKind::V2(_)) { fields[4] } else { fields[2] })?;
    Ok((PageHeader { packed, unpacked, values: count(fields[1])?, encoding, kind }, input.at))
}

fn count(number: Option<i64>) -> Result<u32> {
    u32::try_from(number.ok_or(HeaderError::Broken)?).map_err(|_| HeaderError::Broken)
}

fn encoding(number: Option<i64>) -> Result<Encoding> {
    Ok(match number {
        Some(0) => Encoding::PLAIN,
        Some(2) => Encoding::PLAIN_DICTIONARY,
        Some(3) => Encoding::RLE,
        Some(5) => Encoding::DELTA_BINARY_PACKED,
        Some(6) => Encoding::DELTA_LENGTH_BYTE_ARRAY,
        Some(7) => Encoding::DELTA_BYTE_ARRAY,
        Some(8) => Encoding::RLE_DICTIONARY,
        Some(9) => Encoding::BYTE_STREAM_SPLIT,
        // Old writers name it for levels that they do not have.
        #[allow(deprecated)]
        Some(4) => Encoding::BIT_PACKED,
        _ => return Err(HeaderError::Broken),
    })
}

/// Thrift's compact protocol: a place in its bytes.
pub(super) struct Compact<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Items of lists that may still come.
    items: u64,
}

impl<'a> Compact<'a> {
    /// At the beginning of `bytes`, in which all lists together have at most `items` items.
    pub fn new(bytes: &'a [u8], items: u64) -> Self {
        Self { bytes, at: 0, items }
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or(HeaderError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HeaderError::Broken)
    }

    /// Negative numbers fold in between: 0, -1, 1, -2, …
    fn zigzag(&mut self) -> Result<i64> {
        let folded = self.varint()?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    /// Hands number and kind of each field to `take`, which says whether it read the field; others are passed over.
    pub fn fields(&mut self, depth: usize, take: &mut dyn FnMut(&mut Self, i64, u8) -> Result<bool>) -> Result<()> {
        let mut id = 0i64;
        loop {
            let head = self.byte()?;
            let kind = head & 0x0f;
            if kind == STOP {
                return Ok(());
            }
            id = match head >> 4 {
                0 => self.zigzag()?,
                step => id.checked_add(i64::from(step)).ok_or(HeaderError::Broken)?,
            };
            if !take(self, id, kind)? {
                self.skip(kind, depth)?;
            }
        }
    }

    fn numbers(&mut self) -> Result<Numbers> {
        let mut numbers = Numbers::default();
        self.fields(DEEPEST - 1, &mut |input, id, kind| input.number(id, kind, &mut numbers))?;
        Ok(numbers)
    }

    /// Reads a number into its place; `false` where the field is something else.
    pub fn number(&mut self, id: i64, kind: u8, numbers: &mut Numbers) -> Result<bool> {
        let Some(place) = usize::try_from(id).ok().and_then(|id| numbers.get_mut(id)) else { return Ok(false) };
        *place = Some(match kind {
            TRUE => 1,
            FALSE => 0,
            4..=6 => self.zigzag()?,
            _ => return Ok(false),
        });
        Ok(true)
    }

    /// Kind and number of the items of a list.
    pub fn list(&mut self) -> Result<(u8, u64)> {
        let head = self.byte()?;
        let len = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        self.count(len)?;
        Ok((head & 0x0f, len))
    }

    fn count(&mut self, items: u64) -> Result<()> {
        self.items = self.items.checked_sub(items).ok_or(HeaderError::Broken)?;
        Ok(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Result<()> {
        match kind {
            TRUE | FALSE => Ok(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(drop),
            7 => self.pass(8),
            8 => {
                let len = self.varint()?;
                self.pass(len)
            }
            LIST | 10 => {
                let (kind, len) = self.list()?;
                self.skip_all(&[kind], len, depth)
            }
            11 => {
                let len = self.varint()?;
                if len == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                self.count(len)?;
                self.skip_all(&[kinds >> 4, kinds & 0x0f], len, depth)
            }
            STRUCT if depth > 0 => self.fields(depth - 1, &mut |_, _, _| Ok(false)),
            _ => Err(HeaderError::Broken),
        }
    }

    /// Items of a list or map, in which also a truth value takes a byte.
    fn skip_all(&mut self, kinds: &[u8], len: u64, depth: usize) -> Result<()> {
        if depth == 0 {
            return Err(HeaderError::Broken);
        }
        for _ in 0..len {
            for &kind in kinds {
                let kind = if matches!(kind, TRUE | FALSE) { 3 } else { kind };
                self.skip(kind, depth - 1)?;
            }
        }
        Ok(())
    }

    fn pass(&mut self, len: u64) -> Result<()> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or(HeaderError::Broken)?;
        if end > self.bytes.len() {
            return Err(HeaderError::Short);
        }
        self.at = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page of 5 values, 21 bytes packed and 40 unpacked, with statistics that are passed over.
    fn header() -> Vec<u8> {
        let statistics = [0x18, 2, b'a', b'b', 0x11, 0x19, 0x25, 2, 4, 0];
        let v1 = [&[0x15, 10, 0x15, 0, 0x15, 6, 0x15, 6, 0x1c][..], &statistics, &[0]].concat();
        [&[0x15, 0, 0x15, 80, 0x15, 42, 0x2c][..], &v1, &[0]].concat()
    }

    #[test]
    fn a_data_page() {
        let bytes = header();
        let kind = PageKind::V1 { definition: Encoding::RLE, repetition: Encoding::RLE };
        let expected = PageHeader { packed: 21, unpacked: 40, values: 5, encoding: Encoding::PLAIN, kind };
        assert_eq!(parse(&[&bytes[..], b"body"].concat()), Ok((expected, bytes.len())));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Err(HeaderError::Short), "{cut}");
        }
    }

    #[test]
    fn numbers_that_cannot_be() {
        let mut negative = header();
        negative[3] = 79;
        assert_eq!(parse(&negative), Err(HeaderError::Broken));
        // Structs in structs without end.
        assert_eq!(parse(&[0x2c; 100]), Err(HeaderError::Broken));
        // A list that claims 2^60 items.
        let endless = [0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(parse(&endless), Err(HeaderError::Broken));
    }
}
