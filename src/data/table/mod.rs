//! Manifests: files with one row an image–report pair, in several formats.
//!
//! A format is a file or folder of [`formats`] that implements [`format::Format`], and a line of the table there.

mod bags;
mod columns;
mod fields;
mod format;
mod formats;
mod list;
mod manifest;
mod packer;
mod row;
pub mod sources;

pub use bags::names_text;
pub use columns::{BagColumns, Columns};
pub(in crate::data) use columns::{names_of, similar};
pub use fields::ProblemKind;
pub use format::NewColumn;
pub(in crate::data) use format::PackedImages;
pub use formats::{ShardSample, ShardWriter, format_names, query_cells, set_columns, shard_keys, why_not_utf8};
pub(in crate::data) use formats::{Unswallowed, separator_of};
pub use manifest::{Line, Manifest, RowProblem};
pub use row::{ImageSource, Origin, Row};
