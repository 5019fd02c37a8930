//! From files to batches: manifests, images, reports, tokens, order.
//!
//! Knows no model. What a model needs of it arrives as plain values: an image size, a context length.

mod bag;
mod bounded;
mod config;
mod dataset;
pub mod dicomweb;
mod feature_cache;
mod file_kind;
pub mod fingerprint;
pub mod image;
mod image_files;
mod kept_texts;
pub mod leaks;
pub mod lint;
mod loader;
mod places;
pub mod prepare;
mod sampling;
pub mod sides;
pub mod split;
pub mod synth;
pub mod table;
mod text;
pub mod volume;

pub use bag::{BagPolicy, Bags, HeldImages, KeptFeatures, Member, Members, Slots};
pub use config::{
    AugmentConfig, BagBy, BagConfig, Blank, Blanks, DataConfig, FeaturePrecision, Flip, HardFrom, HardNegatives,
    LongReports, OnBadImage, OnError, Pick, ReportConfig, ReportSection, RowOdds, Separator, Uncertain, Views,
};
pub use dataset::{Batch, Dataset, Images, RowError};
pub use feature_cache::{FeatureCache, Numbers};
pub use file_kind::file_kind;
pub use image::{Picture, augment, dicom, preprocess};
pub use image_files::{ImageFiles, content_of, distinct_images};
pub use kept_texts::{KeptReports, KeptTexts};
pub use loader::Prefetch;
pub use places::{Described, Region, Shape, read_places};
pub use preprocess::{Packed, Prepared, Preprocess};
pub use sampling::{NO_ROW, Neighbours, Sampler, Sampling, StepShape};
pub use table::{BagColumns, Columns, ImageSource, Manifest, Origin, ProblemKind, Row, RowProblem, sources};
pub use text::{LabelPolicy, Labels, PromptClass, Prompts, ReportPolicy, UNSURE, bpe, sections, tokenize};
pub use text::{Opposite, OppositeKind, SentenceOpposite, opposites, with_opposite};
pub use tokenize::{ReportTokenizer, TokenizerKind};
pub use volume::{Axis, Orientation, VolumePolicy, Window};

/// To be raised by hand wherever images or texts are read otherwise than before: what older programs made of them is no
/// part of an index then, and no kept feature.
pub const READERS: u64 = 2;
