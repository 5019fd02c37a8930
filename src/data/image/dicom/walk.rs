//! Data elements (PS3.5 section 7), walked where they lie: nothing is copied, no length is believed that leads out of
//! the file, and how deep and how many they are is bounded. The crates make room for whatever a length claims and go
//! down nested sequences without end.

use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::tags::{self, Tag, is_sequence};

/// Sequences in sequences; what is shown lies three deep, and reports nest below ten.
const DEEPEST: usize = 16;
/// Elements and items of a data set, nested ones included: frames by the ten thousand have a hundred each.
const MOST_ELEMENTS: u32 = 1 << 22;
/// Fragments of compressed pixels.
pub(super) const MOST_FRAGMENTS: usize = 1 << 20;

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

/// Where what an element holds lies in the bytes that were walked.
#[derive(Clone, Debug)]
pub(super) enum Held {
    Bytes(Range<usize>),
    /// Items of a sequence, without the mark that ends it.
    Items(Range<usize>, Encoding),
    /// Compressed pixels, after the table of where frames begin.
    Fragments(Range<usize>, Vec<Range<usize>>),
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
pub(super) struct Element {
    pub tag: Tag,
    /// `None` where the file does not say.
    pub kind: Option<[u8; 2]>,
    pub big_endian: bool,
    pub held: Held,
}

/// A number of two bytes.
pub(super) fn word(bytes: [u8; 2], big_endian: bool) -> u16 {
    if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }
}

/// A place among elements.
pub(super) struct Walk<'a> {
    bytes: &'a [u8],
    pub at: usize,
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
    /// From byte `at` on, which is one of `bytes` or their end.
    pub fn new(bytes: &'a [u8], at: usize, encoding: Encoding) -> Self {
        Self { bytes, at: at.min(bytes.len()), encoding, left: MOST_ELEMENTS }
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// Where the pixels lie that begin here; `None` where they do not, or the bytes end within what says so.
    pub fn pixels(mut self) -> Option<PixelsAt> {
        let tag = self.at;
        let length = self.is_at(tags::PIXELS).then(|| self.head())?.ok()?.len;
        Some(PixelsAt { tag, value: self.at, length })
    }

    fn take(&mut self, len: usize) -> Result<Range<usize>> {
        let (place, left) = (self.at, self.bytes.len() - self.at);
        ensure!(len <= left, "{CUT}: {len} bytes are claimed at byte {place}, where {left} are left");
        self.at += len;
        Ok(place..self.at)
    }

    fn word(&mut self) -> Result<u16> {
        let at = self.take(2)?.start;
        Ok(word([self.bytes[at], self.bytes[at + 1]], self.encoding.big_endian))
    }

    fn head(&mut self) -> Result<Head> {
        self.left = self.left.checked_sub(1).with_context(|| format!("has more than {MOST_ELEMENTS} elements"))?;
        let tag = Tag(self.word()?, self.word()?);
        let mut kind = None;
        if self.encoding.explicit && tag.0 != 0xfffe {
            let at = self.take(2)?.start;
            let named = [self.bytes[at], self.bytes[at + 1]];
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

    /// # Errors
    /// It is cut, nested too deep, or one of too many.
    pub fn element(&mut self, depth: usize) -> Result<Element> {
        let Head { tag, kind, len } = self.head()?;
        ensure!(tag.0 != 0xfffe, "{CUT}: a mark stands among its elements");
        // A sequence whose kind is unknown has its items in the encoding that says no kinds (PS3.5 6.2.2).
        let inside = match kind {
            Some(_) => self.encoding,
            None => Encoding { explicit: false, ..self.encoding },
        };
        let held = match len {
            Some(len) if kind == Some(*b"SQ") || (kind.is_none() && is_sequence(tag)) => {
                Held::Items(self.take(len)?, inside)
            }
            Some(len) => Held::Bytes(self.take(len)?),
            None if tag == tags::PIXELS => self.fragments(depth + 1)?,
            None => {
                let (start, outside) = (self.at, self.encoding);
                self.encoding = inside;
                while self.item_or_end(depth + 1)?.is_some() {}
                self.encoding = outside;
                // The mark that ends it has eight bytes.
                Held::Items(start..self.at - 8, inside)
            }
        };
        Ok(Element { tag, kind, big_endian: self.encoding.big_endian, held })
    }

    /// Where the content of the next item of a sequence lies, whose items the bytes are.
    ///
    /// # Errors
    /// It is cut, nested too deep, or a mark ends the sequence before the bytes end.
    pub fn item(&mut self) -> Result<Range<usize>> {
        self.item_or_end(1)?.with_context(|| format!("{CUT}: a sequence ends early"))
    }

    /// `None` at the end of the sequence.
    fn item_or_end(&mut self, depth: usize) -> Result<Option<Range<usize>>> {
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
            let end = self.at;
            self.take(8)?;
            return Ok(Some(start..end));
        };
        self.take(len).map(Some)
    }

    /// Whether the next element is this one.
    pub fn is_at(&self, tag: Tag) -> bool {
        let two = |at: usize| self.bytes.get(at..at + 2).map(|b| word([b[0], b[1]], self.encoding.big_endian));
        two(self.at) == Some(tag.0) && two(self.at + 2) == Some(tag.1)
    }

    fn fragments(&mut self, depth: usize) -> Result<Held> {
        let offsets = self.fragment(depth)?.with_context(|| format!("{CUT}: it has no table of fragments"))?;
        let mut fragments = Vec::new();
        while let Some(fragment) = self.fragment(depth)? {
            ensure!(fragments.len() < MOST_FRAGMENTS, "has more than {MOST_FRAGMENTS} fragments");
            fragments.push(fragment);
        }
        Ok(Held::Fragments(offsets, fragments))
    }

    /// An item that says its length (PS3.5 A.4): it holds pixels, and no elements that could nest.
    fn fragment(&mut self, depth: usize) -> Result<Option<Range<usize>>> {
        let unsaid = self.bytes.get(self.at + 4..self.at + 8) == Some(&UNDEFINED.to_le_bytes());
        ensure!(!unsaid, "{CUT}: a fragment does not say its length");
        self.item_or_end(depth)
    }
}

/// Kinds whose length has four bytes.
fn has_long_length(kind: &[u8; 2]) -> bool {
    matches!(
        kind,
        b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV"
    )
}
