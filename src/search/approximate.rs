//! The approximate search: graphs of neighbours (HNSW, arXiv 1603.09320, by the `usearch` crate) beside the shards of a
//! folder. They say which rows are near; how near these are is worked out from the vectors themselves.
//!
//! A graph is of neighbouring shards. It is made anew where one of them is no longer what it was, so that an index that
//! grows keeps the graphs of what it had, and making one takes the memory of one, whatever the number of rows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gallery::{Gallery, Side};
use super::graph::{Graph, HOW};
use super::scan::{Best, Scored, scan};
use crate::digest::ContentHash;
use crate::fs::{read_up_to, replace_file};
use crate::json::MAX_BYTES;
use crate::ops::products;
use crate::track::Counted;

/// Folder of the graphs.
const FOLDER: &str = "graphs";
/// Rows of a graph, rounded up to whole shards.
const ROWS: usize = 1 << 17;
/// Rows of which the recall is measured, and among how many of their best.
const SAMPLE: usize = 256;
const SAMPLE_K: usize = 10;
/// Candidates of a graph whose cosines are worked out, for each row that is wanted. The graph knows vectors in 8 bits.
pub const CANDIDATES: usize = 4;

/// How many of the best rows the graphs find, measured on rows of the index itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GraphRecall {
    /// Share of the exact search's best `k` rows that are among the best `k` found, from 0 to 1.
    pub recall: f64,
    /// How many best rows.
    pub k: usize,
    /// How many queries: rows of the other side where there is one, else of the same.
    pub queries: usize,
}

/// What is kept beside the graphs of one side.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// The graphs that are there.
    graphs: Vec<Option<KeptGraph>>,
    /// Of all together, once they are there.
    recall: Option<GraphRecall>,
}

/// What is known of a graph's file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct KeptGraph {
    /// Of what its rows were made from, and of how it was made.
    fingerprint: String,
    bytes: u64,
}

impl Kept {
    fn read(path: &Path) -> Self {
        read_up_to(path, MAX_BYTES).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn write(&self, path: &Path) -> Result<()> {
        replace_file(path, &serde_json::to_vec_pretty(self)?)
    }
}

/// The graphs of one side of an index.
pub(super) struct Graphs {
    graphs: Vec<Graph>,
    recall: GraphRecall,
}

/// Where graphs are to be, and of what.
pub(super) struct Place<'a> {
    /// The index's folder.
    pub folder: &'a Path,
    pub side: Side,
    /// Rows of each shard but the last.
    pub shard_rows: usize,
    /// A digest of what each shard was made from.
    pub shards: &'a [String],
}

fn rows_of_graph(shard_rows: usize) -> usize {
    ROWS.next_multiple_of(shard_rows)
}

/// Removes the graphs of rows beyond so many of images and of texts, and the folder if it is empty then.
///
/// # Errors
/// One cannot be removed.
pub(super) fn remove_beyond(folder: &Path, shard_rows: usize, rows: [usize; 2]) -> Result<()> {
    let graphs = folder.join(FOLDER);
    let remove = || -> std::io::Result<()> {
        for entry in fs::read_dir(&graphs)? {
            let path = entry?.path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let is_beyond = [Side::Images, Side::Texts].iter().zip(rows).any(|(side, rows)| {
                // The list of a side goes with its last graph.
                let number = match stem.strip_prefix(side.word()) {
                    Some("") => Some(0),
                    Some(rest) => rest.strip_prefix('-').and_then(|digits| digits.parse().ok()),
                    None => None,
                };
                number.is_some_and(|number: usize| number >= rows.div_ceil(rows_of_graph(shard_rows)))
            });
            if is_beyond {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    };
    if graphs.is_dir() {
        remove().with_context(|| graphs.display().to_string())?;
        // One that is not empty stays.
        drop(fs::remove_dir(&graphs));
    }
    Ok(())
}

impl Place<'_> {
    fn rows_of_graph(&self) -> usize {
        rows_of_graph(self.shard_rows)
    }

    fn fingerprint(&self, number: usize, rows: usize) -> String {
        let shards = self.rows_of_graph() / self.shard_rows;
        let mut hash = ContentHash::default();
        hash.field(format!("{HOW}, {rows} rows"));
        self.shards.iter().skip(number * shards).take(shards).for_each(|digest| hash.field(digest));
        hash.hex()
    }

    fn graph(&self, number: usize) -> PathBuf {
        self.folder.join(FOLDER).join(format!("{}-{number:05}.usearch", self.side.word()))
    }

    fn list(&self) -> PathBuf {
        self.folder.join(FOLDER).join(format!("{}.json", self.side.word()))
    }
}

impl Graphs {
    /// Opens the graphs of `gallery`, and makes those that are not there or no longer true. `others` are the vectors of
    /// the other side, to measure the recall.
    ///
    /// # Errors
    /// Vectors cannot be read, graphs cannot be written.
    pub fn open(place: &Place, gallery: &Gallery, others: Option<&Gallery>) -> Result<Self> {
        Graph::available()?;
        let of_graph = place.rows_of_graph();
        let starts = (0..gallery.rows()).step_by(of_graph);
        let parts: Vec<(usize, usize)> = starts.map(|first| (first, of_graph.min(gallery.rows() - first))).collect();
        let told = |number: usize| -> Result<KeptGraph> {
            let bytes = fs::metadata(place.graph(number))?.len();
            Ok(KeptGraph { fingerprint: place.fingerprint(number, parts[number].1), bytes })
        };
        let mut kept = Kept::read(&place.list());
        kept.graphs.resize_with(parts.len(), || None);
        // One that was cut off is not opened: what is not looked at is not read, and not checked.
        let is_kept = |number: usize| kept.graphs[number].is_some() && kept.graphs[number] == told(number).ok();
        let view = |number: usize| Graph::view(&place.graph(number), parts[number], gallery).ok();
        let mut graphs: Vec<Option<Graph>> =
            (0..parts.len()).map(|number| if is_kept(number) { view(number) } else { None }).collect();
        let missing: Vec<usize> = (0..graphs.len()).filter(|&number| graphs[number].is_none()).collect();
        if !missing.is_empty() {
            let folder = place.folder.join(FOLDER);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            kept.recall = None;
            missing.iter().for_each(|&number| kept.graphs[number] = None);
            kept.write(&place.list())?;
        }
        let mut progress = Counted::start("rows in graphs", missing.iter().map(|&n| parts[n].1).sum(), true);
        for some in missing.chunks(rayon::current_num_threads()) {
            let make = |&number: &usize| Graph::make(&place.graph(number), parts[number], gallery);
            let made: Vec<Graph> = some.par_iter().map(make).collect::<Result<_>>()?;
            for (&number, graph) in some.iter().zip(made) {
                progress.add(graph.rows);
                (graphs[number], kept.graphs[number]) = (Some(graph), Some(told(number)?));
            }
            // A kill loses the graphs at hand only.
            kept.write(&place.list())?;
        }
        drop(progress);
        let graphs = graphs.into_iter().flatten().collect();
        let nothing = GraphRecall { recall: 0.0, k: 0, queries: 0 };
        let mut graphs = Self { graphs, recall: kept.recall.unwrap_or(nothing) };
        if kept.recall.is_none() {
            graphs.recall = graphs.measured(gallery, others)?;
            kept.recall = Some(graphs.recall);
            kept.write(&place.list())?;
        }
        Ok(graphs)
    }

    pub fn recall(&self) -> GraphRecall {
        self.recall
    }

    /// Of rows of `others`, or of the same side, each without itself, which is always found.
    fn measured(&self, gallery: &Gallery, others: Option<&Gallery>) -> Result<GraphRecall> {
        let (queries, own) = (others.unwrap_or(gallery), usize::from(others.is_none()));
        let count = SAMPLE.min(queries.rows());
        // All over them; the same every time.
        let rows: Vec<usize> = (0..count).map(|i| i * queries.rows() / count).collect();
        let queries = queries.vectors(&rows)?;
        let k = SAMPLE_K.min(gallery.rows() - own.min(gallery.rows()));
        let (exact, found) = (scan(gallery, &queries, k + own)?, self.find(gallery, &queries, k + own)?);
        let hits = |(row, (exact, found)): (&usize, (&Vec<Scored>, &Vec<Scored>))| {
            let best = |all: &[Scored]| -> Vec<usize> {
                all.iter().map(|hit| hit.row).filter(|hit| own == 0 || hit != row).take(k).collect()
            };
            let found = best(found);
            best(exact).iter().filter(|row| found.contains(row)).count()
        };
        let hits: usize = rows.iter().zip(exact.iter().zip(&found)).map(hits).sum();
        Ok(GraphRecall { recall: hits as f64 / (count * k).max(1) as f64, k, queries: count })
    }

    /// As [`scan`] does it, but for rows that the graphs miss: those that are found have the same cosines.
    ///
    /// # Errors
    /// Vectors cannot be read.
    pub fn find(&self, gallery: &Gallery, queries: &[f32], k: usize) -> Result<Vec<Vec<Scored>>> {
        let width = gallery.width();
        ensure!(queries.len().is_multiple_of(width), "{} numbers are no queries of width {width}", queries.len());
        let queries: Vec<&[f32]> = queries.chunks(width).collect();
        // One thread a graph: the order in which one is gone through changes nothing.
        let of_graph =
            |graph: &Graph| queries.iter().map(|query| graph.near(query, CANDIDATES * k)).collect::<Result<Vec<_>>>();
        let near: Vec<Vec<Vec<(f32, usize)>>> = self.graphs.par_iter().map(of_graph).collect::<Result<_>>()?;
        let rescored = |(number, query): (usize, &&[f32])| {
            let mut all: Vec<(f32, usize)> = near.iter().flat_map(|of_graph| &of_graph[number]).copied().collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.truncate(CANDIDATES * k);
            let rows: Vec<usize> = all.into_iter().map(|(_, row)| row).collect();
            let mut scores = vec![0.0; rows.len()];
            products(query, &gallery.vectors(&rows)?, width, &mut scores);
            let mut best = Best::new(k);
            rows.into_iter().zip(scores).for_each(|(row, score)| best.offer(Scored { row, score }));
            Ok(best.into_sorted())
        };
        queries.par_iter().enumerate().map(rescored).collect()
    }
}
