//! An index of embeddings: writing one, and finding in it what fits a text or an image best.

mod approximate;
mod build;
mod content;
mod fill;
mod find;
mod folder;
mod gallery;
#[cfg_attr(not(feature = "approximate"), path = "no_graph.rs")]
mod graph;
mod identity;
mod index;
mod items;
mod late;
mod max_sim;
mod names;
mod npy;
mod parquet;
mod queries;
mod reuse;
mod scan;
mod shard;
mod source;
mod stamp;
mod tensors;

pub use approximate::{CANDIDATES, GraphRecall};
pub use build::{Embedded, IndexModel, build};
pub use fill::{Filled, FolderOptions, fill};
pub use find::{
    Found, Query, QueryPlace, check_model, check_texts, find, find_late, joined, late_query_vectors, query_vectors,
    search, side,
};
pub use folder::{MOST_SHARD_ROWS, is_folder};
pub use gallery::{Gallery, Side};
pub use graph::HAS_GRAPHS;
pub use identity::{Origins, RowIdentity};
pub use index::{APPROXIMATE_ABOVE, Index};
pub use items::{IndexContents, is_plain};
pub use names::{Hit, Names, Seen};
pub use queries::{Queries, read_queries};
pub use reuse::embedded_rows;
pub use scan::Scored;
pub use shard::ShardFormat;
pub use source::{ColumnNames, IndexSource};
