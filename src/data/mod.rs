//! From files to batches: manifests, images, reports, tokens, order.
//!
//! Knows no model. What a model needs of it arrives as plain values: an image size, a context length.

pub mod augment;
pub mod bpe;
mod csv_file;
mod dataset;
mod feature_cache;
pub mod image;
mod image_processors;
mod loader;
pub mod manifest;
mod pipeline;
pub mod preprocess;
mod sampler;
pub mod sides;
pub mod synth;
pub mod tokenize;

pub use dataset::{Batch, Dataset, Images, RowError};
pub use feature_cache::FeatureCache;
pub use loader::Prefetch;
pub use manifest::{Columns, Manifest, Row, RowProblem};
pub use preprocess::{Prepared, Preprocess};
pub use sampler::Sampler;
pub use tokenize::{ReportTokenizer, TokenizerKind};
