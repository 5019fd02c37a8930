//! A graph of neighbours in a file, by `usearch`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use usearch::{IndexOptions, MetricKind, ScalarKind};

use super::gallery::Gallery;
use crate::fs::replace_with;

/// Whether this program has graphs.
pub const HAS_GRAPHS: bool = true;
/// How graphs are made: one that was made otherwise is not used.
pub(super) const HOW: &str = "usearch 2, i8, 16 neighbours, 128 looked at";
/// Neighbours of a row; rows that are looked at to find them. As usearch's defaults, which its documentation measures.
const NEIGHBOURS: usize = 16;
const LOOKED_AT: usize = 128;

/// Of neighbouring rows.
pub(super) struct Graph {
    first: usize,
    pub rows: usize,
    graph: usearch::Index,
}

impl Graph {
    /// # Errors
    /// None: this program has graphs.
    pub fn available() -> Result<()> {
        Ok(())
    }

    fn empty(width: usize) -> Result<usearch::Index> {
        let options = IndexOptions {
            dimensions: width,
            metric: MetricKind::Cos,
            quantization: ScalarKind::I8,
            connectivity: NEIGHBOURS,
            expansion_add: LOOKED_AT,
            expansion_search: LOOKED_AT,
            multi: false,
        };
        usearch::Index::new(&options).map_err(|e| anyhow!("{e}"))
    }

    /// Opens a graph where it lies: what is not looked at is not read.
    ///
    /// # Errors
    /// It is not there, broken, or of other rows.
    pub fn view(path: &Path, (first, rows): (usize, usize), gallery: &Gallery) -> Result<Self> {
        let graph = Self::empty(gallery.width())?;
        let name = path.to_str().context("is no UTF-8")?;
        ensure!(path.is_file(), "is not there");
        graph.view(name).map_err(|e| anyhow!("{e}"))?;
        ensure!(graph.size() == rows && graph.dimensions() == gallery.width(), "is of other rows");
        Ok(Self { first, rows, graph })
    }

    /// Row after row, so that the graph is the same every time.
    ///
    /// # Errors
    /// Vectors cannot be read, or the file cannot be written.
    pub fn make(path: &Path, (first, rows): (usize, usize), gallery: &Gallery) -> Result<Self> {
        let graph = Self::empty(gallery.width())?;
        graph.reserve(rows).map_err(|e| anyhow!("{e}"))?;
        for block in gallery.blocks().into_iter().filter(|block| (first..first + rows).contains(&block.first)) {
            gallery.with_block(block, |vectors| {
                for (row, vector) in (block.first - first..).zip(vectors.chunks(gallery.width())) {
                    graph.add(row as u64, vector).map_err(|e| anyhow!("{e}"))?;
                }
                Ok(())
            })?;
        }
        replace_with(path, |path| graph.save(path.to_str().context("is no UTF-8")?).map_err(|e| anyhow!("{e}")))?;
        // What is searched is what lies there: memory is the file's own pages.
        drop(graph);
        Self::view(path, (first, rows), gallery)
    }

    /// Up to `most` rows that are near, with how far they seem to be.
    ///
    /// # Errors
    /// The graph cannot be searched.
    pub fn near(&self, query: &[f32], most: usize) -> Result<Vec<(f32, usize)>> {
        let found = self.graph.search(query, most.min(self.rows)).map_err(|e| anyhow!("{e}"))?;
        let row = |(distance, key): (f32, u64)| (distance, self.first + key as usize);
        // A graph that something else wrote may name rows that are not there.
        let is_there = |pair: &(f32, usize)| (self.first..self.first + self.rows).contains(&pair.1);
        Ok(found.distances.into_iter().zip(found.keys).map(row).filter(is_there).collect())
    }
}
