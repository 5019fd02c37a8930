//! Data elements (PS3.5 section 7), walked where they lie: nothing is copied, no length is believed that leads out of
//! the file, and how deep and how many they are is bounded. The crates make room for whatever a length claims and go
//! down nested sequences without end.

use anyhow::{Context, Result, ensure};

use super::tags::{self, Tag, is_sequence, usual_kind};

/// Groups whose elements are kept: all tags above lie in them, and few others.
const KEPT: [u16; 5] = [0x0002, 0x0020, 0x0028, 0x5200, 0x7fe0];
/// Most kept elements of one data set; group 0028 has fewer than 200 in the dictionary.
const MOST_KEPT: usize = 1 << 12;
/// Bytes of text or numbers.
const MOST_BYTES: usize = 1 << 16;
/// Sequences in sequences; what is shown lies three deep, and reports nest below ten.
const DEEPEST: usize = 16;
/// Elements and items of a data set, nested ones included: frames by the ten thousand have a hundred each.
const MOST_ELEMENTS: u32 = 1 << 22;
/// Fragments of compressed pixels.
const MOST_FRAGMENTS: usize = 1 << 20;

const ITEM: Tag = Tag(0xfffe, 0xe000);
const END_OF_ITEM: Tag = Tag(0xfffe, 0xe00d);
const END_OF_SEQUENCE: Tag = Tag(0xfffe, 0xe0dd);
const UNDEFINED: u32 = 0xffff_ffff;
const CUT: &str = "is broken or truncated DICOM";

/// How elements are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Encoding {
    /// Each says what kind of value it has.
    pub explicit: bool,
    pub big_endian: bool,
}

/// What an element holds.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    /// Items of a sequence, without the mark that ends it.
    Items(&'a [u8], Encoding),
    /// Compressed pixels, after the table of where frames begin.
    Fragments(&'a [u8], Vec<&'a [u8]>),
}

/// Where pixels lie among the elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct PixelsAt {
    /// Where their element begins.
    pub tag: usize,
    /// Where their bytes, or fragments, begin.
    pub value: usize,
    /// How many bytes these are; `None` of fragments.
    pub length: Option<usize>,
}

#[derive(Clone, Debug)]
struct Element<'a> {
    tag: Tag,
    /// `None` where the file does not say.
    kind: Option<[u8; 2]>,
    big_endian: bool,
    value: Value<'a>,
}

/// The elements of a data set, or of an item of a sequence, that are read here.
#[derive(Clone, Debug, Default)]
pub(super) struct Object<'a>(Vec<Element<'a>>);

impl<'a> Object<'a> {
    /// The elements of `bytes` up to the pixels, which come last of all that is read.
    ///
    /// # Errors
    /// They are cut, nested too deep, or too many.
    pub fn read(bytes: &'a [u8], encoding: Encoding) -> Result<Self> {
        let mut walk = Walk { bytes, at: 0, encoding, left: MOST_ELEMENTS };
        let mut object = Self::default();
        while walk.at < bytes.len() {
            let element = walk.element(0)?;
            let tag = element.tag;
            object.keep(element)?;
            if tag == tags::PIXELS {
                break;
            }
        }
        Ok(object)
    }

    /// [`Self::read`] of what stands before the pixels, which may be cut off.
    ///
    /// # Errors
    /// As there.
    pub fn read_before_pixels(bytes: &'a [u8], encoding: Encoding) -> Result<Self> {
        let mut walk = Walk { bytes, at: 0, encoding, left: MOST_ELEMENTS };
        let mut object = Self::default();
        while walk.at < bytes.len() && !walk.is_at(tags::PIXELS) {
            let element = walk.element(0)?;
            object.keep(element)?;
        }
        Ok(object)
    }

    /// Where the pixels begin; `None` where `bytes` do not hold that.
    pub fn pixels(bytes: &'a [u8], encoding: Encoding) -> Option<PixelsAt> {
        let mut walk = Walk { bytes, at: 0, encoding, left: MOST_ELEMENTS };
        while !walk.is_at(tags::PIXELS) {
            walk.element(0).ok()?;
        }
        let tag = walk.at;
        let length = walk.head().ok()?.len;
        Some(PixelsAt { tag, value: walk.at, length })
    }

    /// Whether `bytes` go on to where the pixels begin; not where they end right before, or have none.
    pub fn reaches_pixels(bytes: &'a [u8], encoding: Encoding) -> bool {
        let mut walk = Walk { bytes, at: 0, encoding, left: MOST_ELEMENTS };
        while !walk.is_at(tags::PIXELS) {
            if walk.element(0).is_err() {
                return false;
            }
        }
        true
    }

    /// The elements of group 2, and the bytes behind them.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn meta(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let encoding = Encoding { explicit: true, big_endian: false };
        let mut walk = Walk { bytes, at: 0, encoding, left: MOST_ELEMENTS };
        let mut object = Self::default();
        while bytes.get(walk.at..walk.at + 2) == Some(&[2, 0]) {
            let element = walk.element(0)?;
            object.keep(element)?;
        }
        Ok((object, &bytes[walk.at..]))
    }

    fn keep(&mut self, element: Element<'a>) -> Result<()> {
        if KEPT.contains(&element.tag.0) {
            ensure!(self.0.len() < MOST_KEPT, "has more than {MOST_KEPT} elements of pixels");
            self.0.push(element);
        }
        Ok(())
    }

    fn find(&self, tag: Tag) -> Option<&Element<'a>> {
        self.0.iter().find(|element| element.tag == tag)
    }

    /// What an element holds, and whether its numbers have their high byte first.
    pub fn value(&self, tag: Tag) -> Option<(&Value<'a>, bool)> {
        self.find(tag).map(|element| (&element.value, element.big_endian))
    }

    /// Whether the element's values are of two bytes each.
    pub fn is_of_words(&self, tag: Tag) -> bool {
        self.find(tag).is_some_and(|element| matches!(element.kind.as_ref(), Some(b"OW" | b"US" | b"SS")))
    }

    pub fn text(&self, tag: Tag) -> Option<String> {
        let bytes = self.find(tag)?.short()?;
        let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\0']);
        (!text.is_empty()).then(|| text.to_string())
    }

    /// The first of the element's numbers.
    pub fn number(&self, tag: Tag) -> Option<f64> {
        self.numbers(tag).first().copied()
    }

    /// Its numbers, up to the first that is none.
    pub fn numbers(&self, tag: Tag) -> Vec<f64> {
        let all = self.find(tag).and_then(Element::numbers).unwrap_or_default();
        all.into_iter().take_while(|n| n.is_finite()).collect()
    }

    /// Its numbers of two bytes without a sign, at most so many.
    pub fn words(&self, tag: Tag, most: usize) -> Vec<u16> {
        let Some(Element { value: Value::Bytes(bytes), big_endian, .. }) = self.find(tag) else { return Vec::new() };
        bytes.chunks_exact(2).take(most).map(|b| word([b[0], b[1]], *big_endian)).collect()
    }

    pub fn count(&self, tag: Tag, name: &str) -> Result<usize> {
        let n = self.number(tag).with_context(|| format!("{name} is missing"))?;
        ensure!((0.0..=4_294_967_295.0).contains(&n), "{name} is out of bounds");
        Ok(n as usize)
    }

    /// The first `most` items of a sequence.
    ///
    /// # Errors
    /// The sequence is broken.
    pub fn items(&self, tag: Tag, most: usize) -> Result<Vec<Object<'a>>> {
        let mut items = Vec::new();
        let Some(Element { value: Value::Items(bytes, encoding), .. }) = self.find(tag) else { return Ok(items) };
        let mut walk = Walk { bytes, at: 0, encoding: *encoding, left: MOST_ELEMENTS };
        while walk.at < bytes.len() && items.len() < most {
            let content = walk.item(1)?.context("is broken or truncated DICOM: a sequence ends early")?;
            items.push(Self::read(content, *encoding)?);
        }
        Ok(items)
    }

    /// An item of a sequence, counted from 0.
    ///
    /// # Errors
    /// The sequence is broken.
    pub fn item(&self, tag: Tag, index: usize) -> Result<Option<Object<'a>>> {
        let Some(Element { value: Value::Items(bytes, encoding), .. }) = self.find(tag) else { return Ok(None) };
        let mut walk = Walk { bytes, at: 0, encoding: *encoding, left: MOST_ELEMENTS };
        for number in 0.. {
            if walk.at >= bytes.len() {
                break;
            }
            let content = walk.item(1)?.context("is broken or truncated DICOM: a sequence ends early")?;
            if number == index {
                return Self::read(content, *encoding).map(Some);
            }
        }
        Ok(None)
    }
}

fn word(bytes: [u8; 2], big_endian: bool) -> u16 {
    if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
}

impl Element<'_> {
    /// Its bytes, where they are no more than text and numbers take.
    fn short(&self) -> Option<&[u8]> {
        let Value::Bytes(bytes) = self.value else { return None };
        (bytes.len() <= MOST_BYTES).then_some(bytes)
    }

    fn numbers(&self) -> Option<Vec<f64>> {
        let bytes = self.short()?;
        let kind = self.kind.as_ref().unwrap_or(usual_kind(self.tag));
        let of = |size: usize, number: fn([u8; 8]) -> f64| {
            let all = bytes.chunks_exact(size).map(|chunk| {
                // The lowest byte first, filled up.
                let mut wide = [0; 8];
                for (i, byte) in chunk.iter().enumerate() {
                    wide[if self.big_endian { size - 1 - i } else { i }] = *byte;
                }
                number(wide)
            });
            Some(all.collect())
        };
        match kind {
            b"US" | b"OW" => of(2, |b| u16::from_le_bytes([b[0], b[1]]).into()),
            b"SS" => of(2, |b| i16::from_le_bytes([b[0], b[1]]).into()),
            b"UL" | b"OL" => of(4, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()),
            b"SL" => of(4, |b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()),
            b"FL" | b"OF" => of(4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()),
            b"FD" | b"OD" => of(8, f64::from_le_bytes),
            _ => {
                let text = std::str::from_utf8(bytes).ok()?;
                text.split('\\').map(|n| n.trim_matches([' ', '\0']).parse().ok()).collect()
            }
        }
    }
}

/// A place among elements.
struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    encoding: Encoding,
    /// Elements that may still come.
    left: u32,
}

/// An element without its value; no length where marks end it.
struct Head {
    tag: Tag,
    kind: Option<[u8; 2]>,
    len: Option<usize>,
}

impl<'a> Walk<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (place, left) = (self.at, self.bytes.len() - self.at);
        ensure!(len <= left, "{CUT}: {len} bytes are claimed at byte {place}, where {left} are left");
        self.at += len;
        Ok(&self.bytes[place..self.at])
    }

    fn word(&mut self) -> Result<u16> {
        let b = self.take(2)?;
        Ok(word([b[0], b[1]], self.encoding.big_endian))
    }

    fn head(&mut self) -> Result<Head> {
        self.left = self.left.checked_sub(1).with_context(|| format!("has more than {MOST_ELEMENTS} elements"))?;
        let tag = Tag(self.word()?, self.word()?);
        let mut kind = None;
        if self.encoding.explicit && tag.0 != 0xfffe {
            let named = [self.take(1)?[0], self.take(1)?[0]];
            // Some writers mix: without two letters it is an element of the other encoding.
            if named.iter().all(u8::is_ascii_uppercase) {
                kind = Some(named);
                if !has_long_length(&named) {
                    let len = usize::from(self.word()?);
                    return Ok(Head { tag, kind, len: Some(len) });
                }
                self.take(2)?;
            } else {
                self.at -= 2;
            }
        }
        let (first, second) = (u32::from(self.word()?), u32::from(self.word()?));
        let len = if self.encoding.big_endian { first << 16 | second } else { second << 16 | first };
        Ok(Head { tag, kind: kind.filter(|k| k != b"UN"), len: (len != UNDEFINED).then_some(len as usize) })
    }

    fn element(&mut self, depth: usize) -> Result<Element<'a>> {
        let Head { tag, kind, len } = self.head()?;
        ensure!(tag.0 != 0xfffe, "{CUT}: a mark stands among its elements");
        // A sequence whose kind is unknown has its items in the encoding that says no kinds (PS3.5 6.2.2).
        let inside = match kind {
            Some(_) => self.encoding,
            None => Encoding { explicit: false, ..self.encoding },
        };
        let value = match len {
            Some(len) if kind == Some(*b"SQ") || (kind.is_none() && is_sequence(tag)) => {
                Value::Items(self.take(len)?, inside)
            }
            Some(len) => Value::Bytes(self.take(len)?),
            None if tag == tags::PIXELS => self.fragments(depth + 1)?,
            None => {
                let (start, outside) = (self.at, self.encoding);
                self.encoding = inside;
                while self.item(depth + 1)?.is_some() {}
                self.encoding = outside;
                // The mark that ends it has eight bytes.
                Value::Items(&self.bytes[start..self.at - 8], inside)
            }
        };
        Ok(Element { tag, kind, big_endian: self.encoding.big_endian, value })
    }

    /// What is in the next item; `None` at the end of the sequence.
    fn item(&mut self, depth: usize) -> Result<Option<&'a [u8]>> {
        ensure!(depth <= DEEPEST, "nests its sequences more than {DEEPEST} deep");
        let Head { tag, len, .. } = self.head()?;
        match tag {
            END_OF_SEQUENCE => return Ok(None),
            ITEM => {}
            _ => anyhow::bail!("{CUT}: a sequence has something else than items"),
        }
        let Some(len) = len else {
            let start = self.at;
            while !self.is_at(END_OF_ITEM) {
                self.element(depth)?;
            }
            let content = &self.bytes[start..self.at];
            self.take(8)?;
            return Ok(Some(content));
        };
        self.take(len).map(Some)
    }

    fn is_at(&self, tag: Tag) -> bool {
        let two = |at: usize| self.bytes.get(at..at + 2).map(|b| word([b[0], b[1]], self.encoding.big_endian));
        two(self.at) == Some(tag.0) && two(self.at + 2) == Some(tag.1)
    }

    fn fragments(&mut self, depth: usize) -> Result<Value<'a>> {
        let offsets = self.fragment(depth)?.context("is broken or truncated DICOM: it has no table of fragments")?;
        let mut fragments = Vec::new();
        while let Some(fragment) = self.fragment(depth)? {
            ensure!(fragments.len() < MOST_FRAGMENTS, "has more than {MOST_FRAGMENTS} fragments");
            fragments.push(fragment);
        }
        Ok(Value::Fragments(offsets, fragments))
    }

    /// An item that says its length (PS3.5 A.4): it holds pixels, and no elements that could nest.
    fn fragment(&mut self, depth: usize) -> Result<Option<&'a [u8]>> {
        let unsaid = self.bytes.get(self.at + 4..self.at + 8) == Some(&UNDEFINED.to_le_bytes());
        ensure!(!unsaid, "{CUT}: a fragment does not say its length");
        self.item(depth)
    }
}

/// Kinds whose length has four bytes.
fn has_long_length(kind: &[u8; 2]) -> bool {
    matches!(
        kind,
        b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV"
    )
}
