//! The elements of a data set that are read here, by their tags.

use std::borrow::Cow;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

use super::tags::{self, Tag, usual_kind};
use super::walk::{Element, Encoding, Held, PixelsAt, Walk, word};

/// Groups whose elements are kept: all tags above lie in them, and few others.
const KEPT: [u16; 5] = [0x0002, 0x0020, 0x0028, 0x5200, 0x7fe0];
/// Most kept elements of one data set; group 0028 has fewer than 200 in the dictionary.
const MOST_KEPT: usize = 1 << 12;
/// Bytes of text or numbers.
const MOST_BYTES: usize = 1 << 16;

/// Which elements an object has, and where: found once, and kept beside the bytes for as many looks as are needed.
#[derive(Clone, Debug, Default)]
pub(super) struct Elements {
    all: Vec<Element>,
    /// Where the items of the frames' groups lie, as many as were looked for.
    groups: Vec<Range<usize>>,
    looked_for: usize,
}

/// The elements of a data set, or of an item of a sequence, that are read here.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    bytes: &'a [u8],
    elements: Cow<'a, Elements>,
}

impl Elements {
    /// The object that they were found of: `bytes` are those that were walked, or go on behind them.
    pub fn of<'a>(&'a self, bytes: &'a [u8]) -> Object<'a> {
        Object { bytes, elements: Cow::Borrowed(self) }
    }

    /// Bytes of memory that they take.
    pub fn size(&self) -> usize {
        let fragments: usize = self.all.iter().map(Element::fragments).sum();
        size_of_val(&self.all[..]) + size_of::<Range<usize>>() * (self.groups.len() + fragments)
    }

    fn keep(&mut self, element: Element) -> Result<()> {
        if KEPT.contains(&element.tag.0) {
            ensure!(self.all.len() < MOST_KEPT, "has more than {MOST_KEPT} elements of pixels");
            self.all.push(element);
        }
        Ok(())
    }
}

impl<'a> Object<'a> {
    /// The elements of `bytes` up to the pixels, which come last of all that is read.
    ///
    /// # Errors
    /// They are cut, nested too deep, or too many.
    pub fn read(bytes: &'a [u8], encoding: Encoding) -> Result<Self> {
        let (elements, at) = walked(bytes, encoding)?;
        Self::with_pixels(elements, bytes, at, encoding)
    }

    /// [`Self::read`] of what stands before the pixels, which may be cut off, and where these lie; `None` where the
    /// bytes do not hold that.
    ///
    /// # Errors
    /// As there.
    pub fn before_pixels(bytes: &'a [u8], encoding: Encoding) -> Result<(Self, Option<PixelsAt>)> {
        let (elements, at) = walked(bytes, encoding)?;
        Ok((Self { bytes, elements: Cow::Owned(elements) }, Walk::new(bytes, at, encoding).pixels()))
    }

    /// [`Self::read`] where all elements before the pixels are known, which begin at byte `at`.
    ///
    /// # Errors
    /// The pixels are cut.
    pub fn with_pixels(mut elements: Elements, bytes: &'a [u8], at: usize, encoding: Encoding) -> Result<Self> {
        let mut walk = Walk::new(bytes, at, encoding);
        if !walk.is_at_end() {
            elements.keep(walk.element(0)?)?;
        }
        Ok(Self { bytes, elements: Cow::Owned(elements) })
    }

    /// The elements of group 2, and where those behind them begin.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn meta(bytes: &'a [u8]) -> Result<(Self, usize)> {
        let encoding = Encoding { explicit: true, big_endian: false };
        let (mut walk, mut elements) = (Walk::new(bytes, 0, encoding), Elements::default());
        while bytes.get(walk.at..walk.at + 2) == Some(&[2, 0]) {
            elements.keep(walk.element(0)?)?;
        }
        Ok((Self { bytes, elements: Cow::Owned(elements) }, walk.at))
    }

    /// With where the frames' groups lie, `most` of them: to search for each would go through all before it. Where the
    /// sequence is broken, those before are there, and [`Self::item`] tells of it where a later one is asked for.
    pub fn with_groups(mut self, most: usize) -> Self {
        let (mut groups, mut looked_for) = (Vec::new(), most);
        if let Some((content, start, encoding)) = self.items(tags::FRAME_GROUPS) {
            let mut walk = Walk::new(content, 0, encoding);
            while !walk.is_at_end() && groups.len() < most {
                let Ok(item) = walk.item() else {
                    looked_for = groups.len();
                    break;
                };
                groups.push(start + item.start..start + item.end);
            }
        }
        let elements = self.elements.to_mut();
        (elements.groups, elements.looked_for) = (groups, looked_for);
        self
    }

    /// Which elements there are, without the bytes, in no more memory than is told of.
    pub fn into_elements(self) -> Elements {
        let mut elements = self.elements.into_owned();
        elements.all.shrink_to_fit();
        elements.groups.shrink_to_fit();
        elements
    }

    fn find(&self, tag: Tag) -> Option<&Element> {
        self.elements.all.iter().find(|element| element.tag == tag)
    }

    /// Bytes of the data set.
    pub fn part(&self, place: &Range<usize>) -> &'a [u8] {
        self.bytes.get(place.clone()).unwrap_or_default()
    }

    /// What an element holds, and whether its numbers have their high byte first.
    pub fn held(&self, tag: Tag) -> Option<(&Held, bool)> {
        self.find(tag).map(|element| (&element.held, element.big_endian))
    }

    /// Whether the element's values are of two bytes each.
    pub fn is_of_words(&self, tag: Tag) -> bool {
        self.find(tag).is_some_and(|element| matches!(element.kind.as_ref(), Some(b"OW" | b"US" | b"SS")))
    }

    /// An element's bytes, where they are no more than text and numbers take.
    fn short(&self, element: &Element) -> Option<&'a [u8]> {
        let Held::Bytes(place) = &element.held else { return None };
        Some(self.part(place)).filter(|bytes| bytes.len() <= MOST_BYTES)
    }

    pub fn text(&self, tag: Tag) -> Option<String> {
        let bytes = self.short(self.find(tag)?)?;
        let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\0']);
        (!text.is_empty()).then(|| text.to_string())
    }

    /// The first of the element's numbers.
    pub fn number(&self, tag: Tag) -> Option<f64> {
        self.numbers(tag).first().copied()
    }

    /// Its numbers, up to the first that is none.
    pub fn numbers(&self, tag: Tag) -> Vec<f64> {
        let numbers = |element: &Element| element.numbers(self.short(element)?);
        let all = self.find(tag).and_then(numbers).unwrap_or_default();
        all.into_iter().take_while(|n| n.is_finite()).collect()
    }

    /// Its numbers of two bytes without a sign, at most so many.
    pub fn words(&self, tag: Tag, most: usize) -> Vec<u16> {
        let Some((Held::Bytes(place), big_endian)) = self.held(tag) else { return Vec::new() };
        self.part(place).chunks_exact(2).take(most).map(|b| word([b[0], b[1]], big_endian)).collect()
    }

    pub fn count(&self, tag: Tag, name: &str) -> Result<usize> {
        let n = self.number(tag).with_context(|| format!("{name} is missing"))?;
        ensure!((0.0..=4_294_967_295.0).contains(&n), "{name} is out of bounds");
        Ok(n as usize)
    }

    /// The items of a sequence, and where they begin.
    fn items(&self, tag: Tag) -> Option<(&'a [u8], usize, Encoding)> {
        match &self.find(tag)?.held {
            Held::Items(place, encoding) => Some((self.part(place), place.start, *encoding)),
            Held::Bytes(_) | Held::Fragments(..) => None,
        }
    }

    /// An item of a sequence, counted from 0.
    ///
    /// # Errors
    /// The sequence is broken.
    pub fn item(&self, tag: Tag, index: usize) -> Result<Option<Object<'a>>> {
        let Some((content, _, encoding)) = self.items(tag) else { return Ok(None) };
        if tag == tags::FRAME_GROUPS && index < self.elements.looked_for {
            let group = self.elements.groups.get(index);
            return group.map(|place| Self::read(self.part(place), encoding)).transpose();
        }
        let mut walk = Walk::new(content, 0, encoding);
        let mut left = index;
        while !walk.is_at_end() {
            let item = walk.item()?;
            if left == 0 {
                return Self::read(&content[item], encoding).map(Some);
            }
            left -= 1;
        }
        Ok(None)
    }
}

/// The elements of `bytes` before the pixels, and where these begin, or the bytes end.
fn walked(bytes: &[u8], encoding: Encoding) -> Result<(Elements, usize)> {
    let (mut walk, mut elements) = (Walk::new(bytes, 0, encoding), Elements::default());
    while !walk.is_at_end() && !walk.is_at(tags::PIXELS) {
        elements.keep(walk.element(0)?)?;
    }
    Ok((elements, walk.at))
}

impl Element {
    /// Fragments that it has.
    fn fragments(&self) -> usize {
        match &self.held {
            Held::Fragments(_, fragments) => fragments.len(),
            Held::Bytes(_) | Held::Items(..) => 0,
        }
    }

    /// The numbers that `bytes`, which it holds, stand for.
    fn numbers(&self, bytes: &[u8]) -> Option<Vec<f64>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The sequence says its length, so that nothing looks into it before a group is asked for.
    #[test]
    fn groups_before_a_broken_one_are_there() {
        let encoding = Encoding { explicit: false, big_endian: false };
        let item = |mark: u16, rows: u16| {
            let rows = [&[0x28, 0, 0x10, 0, 2, 0, 0, 0][..], &rows.to_le_bytes()].concat();
            [&[0xfe, 0xff][..], &mark.to_le_bytes(), &[10, 0, 0, 0], &rows].concat()
        };
        let items = [item(0xe000, 3), item(0xe000, 4), item(0xe001, 5), item(0xe000, 6)].concat();
        let bytes = [&[0, 0x52, 0x30, 0x92][..], &(items.len() as u32).to_le_bytes(), &items].concat();
        for most in [0, 1, 9] {
            let object = Object::read(&bytes, encoding).unwrap().with_groups(most);
            let rows =
                |index| object.item(tags::FRAME_GROUPS, index).ok().map(|group| group.unwrap().words(tags::ROWS, 1));
            assert_eq!([0, 1, 2, 3].map(rows), [Some(vec![3]), Some(vec![4]), None, None], "{most}");
        }
    }
}
