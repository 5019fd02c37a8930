//! Several vectors a row, in 8 bits: the patches of its image or the tokens of its text, one row after the other.
//!
//! A vector is kept as a direction: its codes are its numbers times 127 over the largest of them, rounded, and what is
//! read are the codes over their length. Rows are told by offsets, (rows + 1): row i has the vectors `offsets[i]..
//! offsets[i + 1]`.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::gallery::Side;
use super::stamp::Stamp;
use super::tensors::{Dtype, Header, Plain};

/// The largest code.
const MOST: f32 = 127.0;
/// The largest width: squares of so many codes add up within 31 bits.
const MOST_WIDTH: usize = 1 << 16;
/// Vectors of neighbouring rows that one thread goes through, about.
const BLOCK: u64 = 8192;

impl Side {
    /// The tensors of what this side's rows hold in parts: codes and offsets.
    fn parts(self) -> [&'static str; 2] {
        match self {
            Self::Images => ["image_patches", "image_patch_offsets"],
            Self::Texts => ["text_tokens", "text_token_offsets"],
        }
    }

    /// What is looked at by [`super::Index::find_late`].
    pub(super) fn parts_word(self) -> &'static str {
        self.parts()[0]
    }
}

/// Vectors in 8 bits as they come, row after row.
pub(super) struct Codes {
    width: usize,
    codes: Vec<u8>,
    offsets: Vec<u64>,
}

impl Codes {
    pub fn of_width(width: usize) -> Self {
        Self { width, codes: Vec::new(), offsets: vec![0] }
    }

    /// Makes room for `all` rows like those that were pushed, `before` of them, up to `most` bytes: a vector that grows
    /// by doubling takes up to three times its bytes meanwhile.
    pub fn reserve(&mut self, before: usize, all: usize, most: usize) {
        let more = self.expected(before, all).min(most).saturating_sub(self.codes.len());
        // Where that cannot be had, it may do without.
        let _ = self.codes.try_reserve_exact(more);
    }

    /// Bytes of `all` rows, where they are like the `before` that were pushed.
    pub fn expected(&self, before: usize, all: usize) -> usize {
        self.codes.len().div_ceil(before.max(1)).saturating_mul(all)
    }

    /// Whether those that were pushed, `before` of them, have more than `most` bytes, or `all` rows like them more than
    /// twice as many: rows differ, and a guess refuses no more than what is far beyond.
    pub fn are_too_many(&self, before: usize, all: usize, most: usize) -> bool {
        self.bytes() > most || self.expected(before, all) / 2 > most
    }

    /// How many rows like the `before` that were pushed have `most` bytes.
    pub fn rows_within(&self, before: usize, most: usize) -> usize {
        most / self.expected(before, 1).max(1)
    }

    /// Bytes of all vectors so far.
    pub fn bytes(&self) -> usize {
        self.codes.len()
    }

    /// Adds a row: its vectors, (vectors, width).
    pub fn push(&mut self, vectors: &[f32]) {
        for vector in vectors.chunks_exact(self.width) {
            encode(vector, &mut self.codes);
        }
        self.offsets.push((self.codes.len() / self.width) as u64);
    }

    /// As tensors: (vectors, width) I8 and (rows + 1) I64.
    pub fn tensors(self, side: Side) -> [(&'static str, Plain); 2] {
        let [codes, offsets] = side.parts();
        let bytes = self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let shape = vec![self.codes.len() / self.width, self.width];
        [
            (codes, Plain { dtype: Dtype::I8, shape, bytes: self.codes }),
            (offsets, Plain { dtype: Dtype::I64, shape: vec![self.offsets.len()], bytes }),
        ]
    }
}

/// Codes are bytes of i8.
pub(super) fn encode(vector: &[f32], codes: &mut Vec<u8>) {
    let largest = vector.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let scale = if largest > 0.0 { MOST / largest } else { 0.0 };
    codes.extend(vector.iter().map(|x| (x * scale).round() as i8 as u8));
}

/// Vectors of length 1; of zeros, zeros.
pub(super) fn decode(codes: &[u8], width: usize) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(codes.len());
    for vector in codes.chunks_exact(width) {
        // Whole numbers add up exactly in any order, so several at once.
        let square: i32 = vector.iter().map(|&code| i32::from(code as i8).pow(2)).sum();
        let scale = if square > 0 { 1.0 / (square as f32).sqrt() } else { 0.0 };
        numbers.extend(vector.iter().map(|&code| f32::from(code as i8) * scale));
    }
    numbers
}

/// Of all rows of one side, the vectors of their parts, in their files.
pub(super) struct LateGallery {
    pub width: usize,
    pub rows: usize,
    pub parts: Vec<LatePart>,
}

/// The rows of one file.
pub(super) struct LatePart {
    /// Number of its first row.
    pub first: usize,
    pub width: usize,
    /// Which vectors are a row's: one more than there are rows.
    pub offsets: Vec<u64>,
    path: PathBuf,
    /// Where the codes begin.
    start: u64,
    stamp: Stamp,
}

impl LateGallery {
    /// Of shards in order, with so many rows each.
    ///
    /// # Errors
    /// A shard is missing, has other rows, or does not hold together.
    pub fn open(shards: impl Iterator<Item = (PathBuf, usize)>, side: Side) -> Result<Option<Self>> {
        let mut gallery: Option<Self> = None;
        for (path, count) in shards {
            let first = gallery.as_ref().map_or(0, |gallery| gallery.rows);
            let part = LatePart::open(&path, side, first, count).with_context(|| path.display().to_string())?;
            let gallery = gallery.get_or_insert(Self { width: part.width, rows: 0, parts: Vec::new() });
            ensure!(
                gallery.width == part.width,
                "{}: has {} of width {}, the others {}",
                path.display(),
                side.parts_word(),
                part.width,
                gallery.width
            );
            gallery.rows += count;
            gallery.parts.push(part);
        }
        Ok(gallery)
    }

    /// All rows, some neighbours of one file at a time.
    pub fn blocks(&self) -> Vec<(&LatePart, Range<usize>)> {
        self.parts.iter().flat_map(|part| part.blocks().into_iter().map(move |rows| (part, rows))).collect()
    }
}

impl LatePart {
    fn open(path: &Path, side: Side, first: usize, count: usize) -> Result<Self> {
        let header = Header::read(path)?;
        let [codes, offsets] = side.parts();
        let missing = |name: &str| {
            format!("has no {name}, which --late looks at; `reportclip embed --late --force` makes the index anew")
        };
        let (shape, start) = header.lies(codes, "I8", 1)?.with_context(|| missing(codes))?;
        let &[vectors, width] = shape else { anyhow::bail!("{codes}: is no matrix") };
        let (shape, at) = header.lies(offsets, "I64", 8)?.with_context(|| missing(offsets))?;
        ensure!(shape == [count + 1], "{offsets}: has shape {shape:?}, where the list says {count} rows");
        ensure!((1..=MOST_WIDTH).contains(&width), "{codes}: has width {width}; allowed are 1 to {MOST_WIDTH}");
        let stamp = header.stamp();
        let bytes = stamp.read(path, at, 8 * (count + 1))?;
        let offsets: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|&eight| u64::from_le_bytes(eight)).collect();
        let holds = offsets[0] == 0 && offsets[count] == vectors as u64 && offsets.is_sorted_by(|a, b| a < b);
        ensure!(holds, "{}: are no offsets of rows into {vectors} vectors", side.parts()[1]);
        Ok(Self { first, width, offsets, path: path.to_path_buf(), start, stamp })
    }

    /// Neighbouring rows with not many more vectors than a block's, or one row.
    fn blocks(&self) -> Vec<Range<usize>> {
        let (mut blocks, mut start) = (Vec::new(), 0);
        while start + 1 < self.offsets.len() {
            let most = self.offsets[start] + BLOCK;
            let end = self.offsets.partition_point(|&offset| offset <= most).saturating_sub(1).max(start + 1);
            blocks.push(start..end);
            start = end;
        }
        blocks
    }

    /// Some vectors, (vectors, width), L2-normalised.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn vectors(&self, range: Range<u64>) -> Result<Vec<f32>> {
        let (from, count) = (self.start + range.start * self.width as u64, (range.end - range.start) as usize);
        let codes = self.stamp.read(&self.path, from, count * self.width);
        Ok(decode(&codes.with_context(|| self.path.display().to_string())?, self.width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Access;
    use crate::search::tensors;

    #[test]
    fn a_vector_in_8_bits_points_where_it_did() {
        let width = 64;
        let mut codes = Vec::new();
        let vectors: Vec<f32> = (0..100 * width).map(|i| (i as f32 * 0.37).sin() * (1 + i % 5) as f32).collect();
        vectors.chunks(width).for_each(|vector| encode(vector, &mut codes));
        for (was, is) in vectors.chunks(width).zip(decode(&codes, width).chunks(width)) {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            assert!((dot(is, is) - 1.0).abs() < 1e-5);
            let cosine = dot(was, is) / dot(was, was).sqrt();
            assert!(cosine > 0.9999, "{cosine}");
        }
        codes.clear();
        encode(&[0.0, 0.0], &mut codes);
        encode(&[-2.0, 1e-9], &mut codes);
        assert_eq!(decode(&codes, 2), [0.0, 0.0, -1.0, 0.0]);
    }

    #[test]
    fn the_first_rows_tell_how_many_fit() {
        let mut codes = Codes::of_width(2);
        (1..=4).for_each(|vectors| codes.push(&vec![0.5; 2 * vectors]));
        assert_eq!((codes.bytes(), codes.expected(4, 4), codes.expected(4, 100)), (20, 20, 500));
        assert_eq!((codes.rows_within(4, 49), codes.rows_within(4, 50)), (9, 10));
        assert_eq!((codes.expected(4, usize::MAX), codes.rows_within(4, 4)), (usize::MAX, 0));
        // 20 bytes are there; 8 rows like these have 40.
        let too_many = |all: usize, most: usize| codes.are_too_many(4, all, most);
        assert_eq!((too_many(4, 19), too_many(4, 20)), (true, false));
        assert_eq!((too_many(8, 20), too_many(9, 20), too_many(usize::MAX, 20)), (false, true, true));
        codes.reserve(4, usize::MAX, 1 << 10);
        assert!((1 << 10..1 << 20).contains(&codes.codes.capacity()), "no more than was allowed is asked for");
        let none = Codes::of_width(2);
        assert_eq!((none.expected(0, 5), none.rows_within(0, 7)), (0, 7));
    }

    fn written(dir: &Path, change: impl FnOnce(&mut [(&'static str, Plain); 2])) -> Result<LateGallery> {
        let mut codes = Codes::of_width(2);
        for row in 1..=3 {
            codes.push(&vec![0.5; 2 * row]);
        }
        let mut tensors = codes.tensors(Side::Images);
        change(&mut tensors);
        let path = dir.join("shard.safetensors");
        tensors::write(&path, tensors.iter().map(|(name, tensor)| (*name, tensor)), None, Access::Usual)?;
        LateGallery::open([(path, 3)].into_iter(), Side::Images).map(Option::unwrap)
    }

    #[test]
    fn a_shard_that_does_not_hold_together_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let gallery = written(dir.path(), |_| ()).unwrap();
        assert_eq!((gallery.width, gallery.rows, gallery.parts[0].offsets.as_slice()), (2, 3, &[0, 1, 3, 6][..]));
        assert_eq!(gallery.parts[0].vectors(5..6).unwrap(), [0.5f32.sqrt(); 2]);
        let set = |offsets: [i64; 4]| {
            move |tensors: &mut [(&'static str, Plain); 2]| {
                tensors[1].1.bytes = offsets.iter().flat_map(|x| x.to_le_bytes()).collect();
            }
        };
        let into = "image_patch_offsets: are no offsets of rows into 6 vectors";
        for offsets in [[1, 2, 3, 6], [0, 3, 1, 6], [0, 1, 1, 6], [0, 1, 3, 5], [0, 1, 3, 7], [0, -1, 3, 6]] {
            let told = format!("{:#}", written(dir.path(), set(offsets)).err().unwrap());
            assert!(told.ends_with(into), "{told}");
        }
        type Change = fn(&mut [(&'static str, Plain); 2]);
        let changes: [(Change, &str); 5] = [
            (|tensors| tensors[1].0 = "other", "has no image_patch_offsets, which --late looks at"),
            (|tensors| tensors[0].0 = "other", "has no image_patches, which --late looks at"),
            (|tensors| tensors[0].1.dtype = Dtype::U8, "image_patches: is of type U8, not I8"),
            (|tensors| tensors[0].1.shape = vec![12], "image_patches: is no matrix"),
            (
                |tensors| {
                    tensors[1].1.shape = vec![3];
                    tensors[1].1.bytes.truncate(24);
                },
                "image_patch_offsets: has shape [3], where the list says 3 rows",
            ),
        ];
        for (change, why) in changes {
            let told = format!("{:#}", written(dir.path(), change).err().unwrap());
            assert!(told.contains(&format!("shard.safetensors: {why}")), "{told}");
        }
    }

    #[test]
    fn blocks_have_all_rows_once() {
        let stamp = Stamp::of(&tempfile::tempfile().unwrap()).unwrap();
        let mut offsets = vec![0];
        for count in [1, 8191, 1, 9000, 20_000, 5, 5].into_iter().chain([100; 200]) {
            offsets.push(offsets[offsets.len() - 1] + count);
        }
        let part = LatePart { first: 0, width: 1, offsets, path: PathBuf::new(), start: 0, stamp };
        let blocks = part.blocks();
        assert_eq!(blocks[..4], [0..2, 2..3, 3..4, 4..5]);
        assert!(blocks.windows(2).all(|two| two[0].end == two[1].start));
        assert_eq!(blocks.last().unwrap().end, 207);
        let vectors = |rows: &Range<usize>| part.offsets[rows.end] - part.offsets[rows.start];
        assert!(blocks[4..].iter().all(|rows| vectors(rows) <= BLOCK));
    }
}
