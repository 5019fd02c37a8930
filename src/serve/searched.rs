//! The index that is searched.

use anyhow::{Context, Result};

use crate::data::ImageSource;
use crate::search::{Hit, Index, Names, Scored, Seen, Side, is_plain};

/// An index with what its rows are called.
pub struct Searched {
    pub(super) index: Index,
    names: Names,
}

impl Searched {
    /// Vectors of up to `most` bytes are read into memory.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn new(mut index: Index, most: usize) -> Result<Self> {
        index.hold(most)?;
        let names = Names::read(&index);
        Ok(Self { index, names })
    }

    /// The best `k` rows, and how many were looked through.
    pub(super) fn best(&self, among: Side, vector: &[f32], k: usize) -> Result<(usize, Vec<Scored>)> {
        let gallery = self.index.gallery(among).context("a side that is not there")?.rows();
        let mut best = self.index.find(among, vector, k)?;
        Ok((gallery, best.pop().context("a search without an answer")?))
    }

    /// What these rows are called, each with its image where that still holds what it did when the index was made.
    /// Reads their files, which may take as long as their disk likes.
    ///
    /// # Errors
    /// The index is no longer what it was when it was opened.
    pub(super) fn named(&self, among: Side, best: Vec<Scored>) -> Result<Vec<(Hit, Option<ImageSource>)>> {
        let named = |hit: Hit| {
            let image = self.names.image(&self.index, among, &hit);
            (hit, image.filter(|image| is_plain(image.file())))
        };
        Ok(self.names.hits(&self.index, among, best, &mut Seen::new())?.into_iter().map(named).collect())
    }
}
