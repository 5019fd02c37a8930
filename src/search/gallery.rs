//! Rows of vectors: held, or read from their files a block at a time.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use super::parquet::VectorColumn;
use super::stamp::Stamp;
use crate::digest::{ContentHash, Depth};
use crate::words::words;

words! {
    /// Which rows of an index are looked at.
    Side {
        /// Embeddings of images.
        Images = "image_embeds",
        /// Embeddings of texts.
        Texts = "text_embeds",
    }
}

/// Rows that are read at once.
pub(super) const BLOCK: usize = 1024;

/// All image or all text embeddings of an index, L2-normalised rows of f32.
pub struct Gallery {
    width: usize,
    rows: usize,
    parts: Vec<Part>,
}

/// The rows of one file.
struct Part {
    /// Number of its first row.
    first: usize,
    rows: usize,
    vectors: Vectors,
}

/// Where the vectors of a part are.
pub(super) enum Vectors {
    /// In memory.
    Held(Vec<f32>),
    /// In a file from this byte on, little-endian.
    Raw { path: PathBuf, offset: u64, stamp: Stamp },
    /// In a column of lists.
    Parquet(VectorColumn),
}

/// Neighbouring rows of one part.
#[derive(Clone, Copy)]
pub(super) struct Block {
    part: usize,
    start: usize,
    pub rows: usize,
    /// Number of its first row in the gallery.
    pub first: usize,
}

impl Gallery {
    /// Of parts in order: rows, width and where they are. `None` where there is none.
    ///
    /// # Errors
    /// They have several widths.
    pub(super) fn of(parts: impl IntoIterator<Item = (usize, usize, Vectors)>) -> Result<Option<Self>> {
        let mut gallery: Option<Self> = None;
        for (rows, width, vectors) in parts {
            let gallery = gallery.get_or_insert(Self { width, rows: 0, parts: Vec::new() });
            ensure!(gallery.width == width, "has embeddings of width {} and of width {width}", gallery.width);
            gallery.parts.push(Part { first: gallery.rows, rows, vectors });
            gallery.rows = gallery.rows.checked_add(rows).context("has too many rows")?;
        }
        Ok(gallery)
    }

    /// How many there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// embed_dim.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of all vectors.
    pub fn bytes(&self) -> usize {
        4 * self.rows * self.width
    }

    /// Whether a single row costs as much to read as a group of a thousand around it.
    pub fn is_in_groups(&self) -> bool {
        self.parts.iter().any(|part| matches!(part.vectors, Vectors::Parquet(_)))
    }

    /// Reads all vectors into memory, for many searches.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hold(&mut self) -> Result<()> {
        for part in &mut self.parts {
            part.vectors = Vectors::Held(part.vectors.numbers(0..part.rows, self.width)?);
        }
        Ok(())
    }

    /// All vectors as one tensor, (rows, embed_dim).
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn tensor(&self) -> Result<Tensor> {
        let mut numbers = Vec::new();
        for part in &self.parts {
            numbers.extend(part.vectors.numbers(0..part.rows, self.width)?);
        }
        Ok(Tensor::from_vec(numbers, (self.rows, self.width), &Device::Cpu)?)
    }

    /// All rows, a block at a time.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let of_part = |(number, part): (usize, &Part)| {
            let (rows, first) = (part.rows, part.first);
            let block = move |start| Block { part: number, start, rows: BLOCK.min(rows - start), first: first + start };
            (0..rows).step_by(BLOCK).map(block)
        };
        self.parts.iter().enumerate().flat_map(of_part).collect()
    }

    /// Lets `use_them` see the vectors of a block.
    ///
    /// # Errors
    /// They cannot be read; those of `use_them`.
    pub(super) fn with_block<T>(&self, block: Block, use_them: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
        let part = &self.parts[block.part];
        let rows = block.start..block.start + block.rows;
        match &part.vectors {
            Vectors::Held(numbers) => use_them(&numbers[rows.start * self.width..rows.end * self.width]),
            vectors => use_them(&vectors.numbers(rows, self.width)?),
        }
    }

    /// Adds the vectors to a digest: all of them, or blocks all over them.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn add_to(&self, hash: &mut ContentHash, depth: Depth) -> Result<()> {
        /// Blocks, at most, that stand for all.
        const PARTS: usize = 64;
        let blocks = self.blocks();
        let step = if depth == Depth::Whole { 1 } else { blocks.len().div_ceil(PARTS).max(1) };
        [self.rows, self.width].iter().for_each(|side| hash.field((*side as u64).to_le_bytes()));
        blocks.iter().step_by(step).try_for_each(|block| {
            self.with_block(*block, |numbers| {
                hash.field(numbers.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
                Ok(())
            })
        })
    }

    /// The vectors of some rows.
    ///
    /// # Errors
    /// They cannot be read, or are not there.
    pub(super) fn vectors(&self, rows: &[usize]) -> Result<Vec<f32>> {
        let mut numbers = Vec::with_capacity(rows.len() * self.width);
        for &row in rows {
            let at = self.parts.partition_point(|part| part.first + part.rows <= row);
            let part = self.parts.get(at).context("no such row")?;
            let row = row - part.first;
            numbers.extend(part.vectors.numbers(row..row + 1, self.width)?);
        }
        Ok(numbers)
    }
}

impl Vectors {
    fn numbers(&self, rows: Range<usize>, width: usize) -> Result<Vec<f32>> {
        match self {
            Self::Held(numbers) => Ok(numbers[rows.start * width..rows.end * width].to_vec()),
            Self::Parquet(column) => column.numbers(rows, width),
            Self::Raw { path, offset, stamp } => {
                let bytes = stamp.read(path, offset + 4 * (rows.start * width) as u64, 4 * rows.len() * width);
                let bytes = bytes.with_context(|| path.display().to_string())?;
                Ok(bytes.as_chunks::<4>().0.iter().map(|&four| f32::from_le_bytes(four)).collect())
            }
        }
    }
}
