//! From files to batches: manifests, images, reports, tokens, order.
//!
//! Knows no model. What a model needs of it arrives as plain values: an image size, a context length.

mod csv_file;
mod dataset;
mod feature_cache;
pub mod fingerprint;
pub mod image;
pub mod lint;
mod loader;
pub mod manifest;
mod parquet_file;
pub mod prepare;
mod prompts;
mod report_policy;
mod row;
mod sampler;
pub mod sides;
pub mod sources;
pub mod split;
pub mod synth;
pub mod table;
mod text;
mod text_file;
mod webdataset;

pub use dataset::{Batch, Dataset, Images, RowError};
pub use feature_cache::FeatureCache;
pub use image::{Picture, augment, dicom, preprocess};
pub use loader::Prefetch;
pub use manifest::{Columns, Manifest, RowProblem};
pub use preprocess::{Prepared, Preprocess};
pub use prompts::{Labels, PromptClass, Prompts};
pub use report_policy::ReportPolicy;
pub use row::{ImageSource, Origin, Row};
pub use sampler::{Sampler, Sampling};
pub use text::{bpe, sections, tokenize};
pub use tokenize::{ReportTokenizer, TokenizerKind};
