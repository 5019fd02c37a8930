//! An index of embeddings: writing one, and finding in it what fits a text or an image best.

mod build;
mod fill;
mod find;
mod folder;
mod gallery;
mod identity;
mod index;
mod items;
mod names;
mod npy;
mod parquet;
mod reuse;
mod scan;
mod shard;
mod source;
mod tensors;

pub use build::{Embedded, IndexModel, build};
pub use fill::{Filled, FolderOptions, fill};
pub use find::{Found, Query, check_model, find, query_vectors, search};
pub use folder::{MOST_SHARD_ROWS, is_folder};
pub use gallery::{Gallery, Side};
pub use identity::{Origins, RowIdentity};
pub use index::Index;
pub use items::IndexContents;
pub use names::{Hit, Names};
pub use reuse::embedded_rows;
pub use scan::Scored;
pub use shard::ShardFormat;
pub use source::{ColumnNames, IndexSource};
