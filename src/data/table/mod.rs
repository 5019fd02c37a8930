//! Manifests: files with one row an image–report pair, in several formats.

mod csv;
mod manifest;
mod parquet;
mod row;
pub mod sources;
mod text;
mod webdataset;
mod with_column;

pub use manifest::{Columns, Manifest, RowProblem};
pub use row::{ImageSource, Origin, Row};
pub use with_column::with_column;
