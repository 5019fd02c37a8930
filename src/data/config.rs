//! What data is asked for, as plain values: which rows, what of their reports, which changes to images.

use std::path::PathBuf;

use serde::Deserialize;

use super::volume::{VolumePolicy, Window};
use crate::span::Span;
use crate::words::words;

words!(
    /// What to do with a row that cannot be read.
    OnError {
        /// Stop with an error.
        Stop = "stop",
        /// Count it and go on.
        Skip = "skip",
    }
);
words!(
    /// How numbers of kept features lie on the disk.
    FeaturePrecision {
        /// As they are.
        F32 = "f32",
        /// Each the nearest bf16, half the bytes.
        Bf16 = "bf16",
    }
);
words!(
    /// Which part of a report is read.
    ReportSection {
        /// All of it.
        Whole = "whole",
        /// What the reader concludes.
        Impression = "impression",
        /// What the reader sees.
        Findings = "findings",
        /// Findings, then impression.
        Both = "both",
        /// The longer of the two.
        Longest = "longest",
        /// One sentence of the two, drawn anew each time.
        RandomSentence = "random_sentence",
    }
);
words!(
    /// What becomes of a report that has too many tokens.
    LongReports {
        /// Its end is cut off.
        Truncate = "truncate",
        /// As many whole sentences as fit, from the first.
        Sentences = "sentences",
        /// One part of whole sentences, drawn anew each time.
        Chunk = "chunk",
    }
);
words!(
    /// What an uncertain finding (−1) counts as.
    Uncertain {
        /// Nothing.
        Ignore = "ignore",
        /// That it is there.
        Positive = "positive",
        /// That it is not.
        Negative = "negative",
    }
);
words!(
    /// What a finding counts as that a row does not mention.
    Blank {
        /// That it is not there.
        Negative = "negative",
        /// Nothing.
        Ignore = "ignore",
    }
);
words!(
    /// Separator of columns.
    Separator {
        /// As the header has it.
        Auto = "auto",
        /// `,`
        Comma = "comma",
        /// A tabulator.
        Tab = "tab",
        /// `;`
        Semicolon = "semicolon",
        /// `|`
        Pipe = "pipe",
    }
);
words!(
    /// What is drawn of a study of several rows.
    Views {
        /// Every row in an epoch.
        All = "all_views",
        /// One row, drawn anew each epoch.
        One = "one_view",
    }
);
words!(
    /// How often rows are drawn.
    RowOdds {
        /// All alike.
        Uniform = "uniform",
        /// So that every label comes equally often.
        ClassBalanced = "class_balanced",
    }
);
words!(
    /// What becomes of the blanks of de-identification.
    Blanks {
        /// They are taken out.
        Remove = "remove",
        /// They stay.
        Keep = "keep",
    }
);
words!(
    /// Whether images are mirrored at random.
    Flip {
        /// Never.
        Off = "off",
        /// Unless reports name sides.
        On = "on",
        /// Although reports name sides.
        Force = "force",
    }
);

words!(
    /// What is one report with its images.
    BagBy {
        /// A row, which may name several images.
        Row = "row",
        /// All rows of a study.
        Study = "study_id",
    }
);
words!(
    /// Which images of a large bag are read.
    Pick {
        /// Evenly spaced ones.
        Uniform = "uniform",
        /// Ones drawn anew each time.
        Random = "random",
        /// The first.
        First = "first",
        /// Every n-th from the first.
        Stride = "stride",
    }
);
words!(
    /// What becomes of a bag one of whose images cannot be read.
    OnBadImage {
        /// The image is left out.
        Drop = "drop",
        /// The row cannot be read.
        Row = "row",
    }
);

words!(
    /// Where hard negatives come from.
    HardFrom {
        /// Reports that an image is near to.
        Text = "text",
        /// Images that a report is near to.
        Image = "image",
    }
);

impl Separator {
    /// Its byte; `None` = read it off the header.
    pub fn byte(self) -> Option<u8> {
        match self {
            Self::Auto => None,
            Self::Comma => Some(b','),
            Self::Tab => Some(b'\t'),
            Self::Semicolon => Some(b';'),
            Self::Pipe => Some(b'|'),
        }
    }
}

/// Where pairs come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // Fields are documented by the table of keys, here and below.
pub struct DataConfig {
    #[serde(default)]
    pub train: Vec<PathBuf>,
    /// One for each of `train`, or none.
    #[serde(default)]
    pub weights: Vec<f64>,
    #[serde(default)]
    pub val: Vec<PathBuf>,
    pub phantom: Option<usize>,
    pub image_root: Option<PathBuf>,
    pub image_column: String,
    pub report_column: String,
    pub patient_id_column: String,
    pub study_id_column: String,
    pub bag: BagConfig,
    pub split_column: String,
    pub label_column: String,
    pub train_split: String,
    pub val_split: String,
    pub separator: Separator,
    pub views: Views,
    pub sampling: RowOdds,
    pub negation: f64,
    pub hard_negatives: HardNegatives,
    pub no_duplicate_reports: bool,
    pub length_buckets: usize,
    pub shuffle_buffer: usize,
    pub near_duplicates: usize,
    pub on_error: OnError,
    pub max_skipped: usize,
    pub max_image_mib: u64,
    /// But its window, which is `window`.
    pub volume: VolumePolicy,
    pub window: Window,
    pub workers: usize,
    pub prefetch: usize,
    /// Work out once what frozen image layers make of each image.
    pub cache_features: bool,
    /// Folder for that; `None` = beside the run folder.
    pub feature_cache: Option<PathBuf>,
    pub feature_precision: FeaturePrecision,
}

/// Negatives that are mined.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct HardNegatives {
    pub k: usize,
    pub from: HardFrom,
    pub refresh: Span,
    pub margin: Option<f64>,
}

impl Default for HardNegatives {
    /// None.
    fn default() -> Self {
        Self { k: 0, from: HardFrom::Text, refresh: Span::Epochs(1.0), margin: None }
    }
}

/// Rows with several images.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct BagConfig {
    pub by: BagBy,
    pub separator: String,
    pub max: usize,
    pub pick: Pick,
    pub on_bad: OnBadImage,
}

impl DataConfig {
    /// All of `train`, for messages.
    pub fn train_name(&self) -> String {
        self.train.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// How volumes become pictures.
    pub fn volume_policy(&self) -> VolumePolicy {
        VolumePolicy { window: self.window.clone(), ..self.volume.clone() }
    }
}

/// What of a report the text tower reads. Kept in the model, so that inference reads the same.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ReportConfig {
    pub section: ReportSection,
    pub fallback: Vec<ReportSection>,
    pub blanks: Blanks,
    pub long: LongReports,
}

impl Default for ReportConfig {
    /// Whole reports as they are.
    fn default() -> Self {
        let fallback = Vec::new();
        Self { section: ReportSection::Whole, fallback, blanks: Blanks::Keep, long: LongReports::Truncate }
    }
}

/// Random changes to training images.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AugmentConfig {
    pub rotation: f64,
    pub crop: f64,
    pub brightness: f64,
    pub contrast: f64,
    pub horizontal_flip: Flip,
}

impl AugmentConfig {
    /// Whether images stay as they are.
    pub fn is_off(&self) -> bool {
        let Self { rotation, crop, brightness, contrast, horizontal_flip } = *self;
        rotation == 0.0 && crop >= 1.0 && brightness == 0.0 && contrast == 0.0 && horizontal_flip == Flip::Off
    }
}
