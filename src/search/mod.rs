//! An index of embeddings: writing one, and finding in it what fits a text or an image best.

mod build;
mod find;
mod identity;
mod index;
mod reuse;

pub use build::{IndexContents, IndexModel, build};
pub use find::{Found, Hit, Query, check_model, search};
pub use identity::RowIdentity;
pub use index::{ColumnNames, Index, IndexSource};
pub use reuse::embedded_rows;
