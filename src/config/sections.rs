//! The sections of a resolved config, typed.

use std::path::PathBuf;

use super::span::Span;

words!(
    /// Where weights come from.
    ModelInit {
        /// From `model.path`.
        Pretrained = "pretrained",
        /// Fresh, shaped by `model.random`.
        Random = "random",
    }
);
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
    /// Shape of the learning rate after warm-up.
    ScheduleKind {
        /// Half a cosine down to min_lr_ratio.
        Cosine = "cosine",
        /// A line down to min_lr_ratio.
        Linear = "linear",
        /// Flat.
        Constant = "constant",
    }
);

/// How much of a tower is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezeDepth {
    /// Nothing.
    None,
    /// Embeddings and this many blocks, from the input up.
    Blocks(usize),
    /// The whole tower; its projection is a head and has its own switch.
    All,
}

/// Where the model comes from.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // Fields are documented by the table of keys, here and below.
pub struct ModelConfig {
    pub init: ModelInit,
    pub path: Option<String>,
    pub image: Option<String>,
    pub text: Option<String>,
    /// `None` = auto.
    pub image_pooling: Option<String>,
    /// `None` = auto.
    pub text_pooling: Option<String>,
    pub mlp_projection: bool,
    pub embed_dim: usize,
    pub image_size: Option<usize>,
    pub context_length: Option<usize>,
    pub tokenizer: Option<PathBuf>,
    pub random: RandomModelConfig,
}

/// Shape of a fresh model.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct RandomModelConfig {
    pub vocab_size: usize,
    pub embed_dim: usize,
    pub patch_size: usize,
    pub vision_width: usize,
    pub vision_layers: usize,
    pub vision_heads: usize,
    pub text_width: usize,
    pub text_layers: usize,
    pub text_heads: usize,
}

/// Where pairs come from.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct DataConfig {
    pub train: Vec<PathBuf>,
    /// One for each of `train`, or none.
    pub weights: Vec<f64>,
    pub val: Vec<PathBuf>,
    pub phantom: Option<usize>,
    pub image_root: Option<PathBuf>,
    pub image_column: String,
    pub report_column: String,
    pub patient_id_column: String,
    pub study_id_column: String,
    pub split_column: String,
    pub label_column: String,
    pub train_split: String,
    pub val_split: String,
    /// `None` = read it off the header.
    pub separator: Option<u8>,
    pub one_view: bool,
    pub class_balanced: bool,
    pub no_duplicate_reports: bool,
    pub length_buckets: usize,
    pub shuffle_buffer: usize,
    pub near_duplicates: usize,
    pub on_error: OnError,
    pub max_skipped: usize,
    pub workers: usize,
    pub prefetch: usize,
    /// Work out once what frozen image layers make of each image.
    pub cache_features: bool,
    /// Folder for that; `None` = beside the run folder.
    pub feature_cache: Option<PathBuf>,
}

impl DataConfig {
    /// All of `train`, for messages.
    pub fn train_name(&self) -> String {
        self.train.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// What of a report the text tower reads. Kept in the model, so that inference reads the same.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ReportConfig {
    pub section: ReportSection,
    pub fallback: Vec<ReportSection>,
    pub remove_blanks: bool,
    pub long: LongReports,
}

impl Default for ReportConfig {
    /// Whole reports as they are.
    fn default() -> Self {
        let fallback = Vec::new();
        Self { section: ReportSection::Whole, fallback, remove_blanks: false, long: LongReports::Truncate }
    }
}

/// Random changes to training images.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct AugmentConfig {
    pub rotation: f64,
    pub crop: f64,
    pub brightness: f64,
    pub contrast: f64,
    pub horizontal_flip: bool,
    /// Flip although reports name sides.
    pub force_flip: bool,
}

impl AugmentConfig {
    /// Whether images stay as they are.
    pub fn is_off(&self) -> bool {
        let Self { rotation, crop, brightness, contrast, horizontal_flip, force_flip: _ } = *self;
        rotation == 0.0 && crop >= 1.0 && brightness == 0.0 && contrast == 0.0 && !horizontal_flip
    }
}

/// Length and rhythm of training.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct TrainConfig {
    pub batch_size: usize,
    pub accum_freq: usize,
    pub epochs: u64,
    pub max_steps: Option<u64>,
    pub max_samples: Option<u64>,
    pub stop_after: Option<u64>,
    pub eval_every: Span,
    pub checkpoint_every: Span,
    /// Best by mean recall; by validation loss if false.
    pub best_by_recall: bool,
    pub early_stopping: u64,
    pub clip_grad_norm: f64,
    /// 0 = none.
    pub ema: f64,
    pub dropout: f64,
    pub patch_dropout: f64,
    /// Keep only each block's input for the backward pass.
    pub checkpoint_activations: bool,
    pub tensorboard: bool,
    /// Products with weights in bf16; in f32 if false.
    pub bf16: bool,
    /// Seconds.
    pub rank_timeout: u64,
    pub log_every: u64,
}

/// The optimizer and its schedule.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct OptimConfig {
    pub lr_image: f64,
    pub lr_text: f64,
    pub lr_heads: f64,
    pub layer_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub schedule: ScheduleKind,
    pub warmup: Span,
    pub min_lr_ratio: f64,
}

/// Low-rank adapters.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct LoraConfig {
    /// 0 = none.
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Vec<String>,
}

/// What training leaves as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct FreezeConfig {
    pub image: FreezeDepth,
    pub text: FreezeDepth,
    pub projections: bool,
    pub logit_scale: bool,
}

impl FreezeConfig {
    /// Nothing frozen.
    pub const NONE: Self =
        Self { image: FreezeDepth::None, text: FreezeDepth::None, projections: false, logit_scale: false };
}

/// How validation is done.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct EvalConfig {
    pub batch_size: usize,
    pub gallery: usize,
    pub bootstrap: usize,
}
