//! The index that is searched.

use anyhow::{Context, Result};

use crate::data::ImageSource;
use crate::search::{Hit, Index, Names, Side, find};

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

    /// The best `k` rows, each with its image where that still holds what it did when the index was made.
    pub(super) fn find(
        &self,
        among: Side,
        vector: Vec<f32>,
        k: usize,
    ) -> Result<(usize, Vec<(Hit, Option<ImageSource>)>)> {
        let mut found = find((&self.index, &self.names), &[(among, vector)], k)?;
        let found = found.pop().context("a search without an answer")?;
        let with_image = |hit: Hit| {
            let image = self.names.image(&self.index, among, hit.row).filter(|_| !hit.changed);
            (hit, image)
        };
        Ok((found.gallery, found.hits.into_iter().map(with_image).collect()))
    }
}
