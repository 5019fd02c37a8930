//! Every config key: one row each with its kind, default and meaning. The table of docs/config.md is made from it.

use super::key::{Key, joined, key};
use super::kind::Kind;
use super::loss_keys::LOSS;
use super::model_keys::MODEL;
use super::optim_keys::OPTIM;
use super::sections::Precision;
use crate::data::{
    Axis, BagBy, BagPolicy, Blanks, FeaturePrecision, Flip, HardFrom, LongReports, OnBadImage, OnError, Orientation,
    Pick, ReportSection, RowOdds, Separator, Views, VolumePolicy,
};

const MAX: i64 = i64::MAX;
const INF: f64 = f64::INFINITY;

/// All keys, in the order in which they are shown.
pub const KEYS: &[Key] = &joined::<COUNT>(&[RUN, MODEL, DATA, LOSS, TRAIN, OPTIM, AFTER]);

const COUNT: usize = RUN.len() + MODEL.len() + DATA.len() + LOSS.len() + TRAIN.len() + OPTIM.len() + AFTER.len();

/// Of the run as a whole.
const RUN: &[Key] = &[
    key("seed", Kind::Int(0, MAX), "0", "Seed of order, augmentation, fresh weights and bootstrap"),
    key("device", Kind::Text, "\"auto\"", "\"auto\", \"cpu\", \"cuda\" or \"cuda:N\"").per_machine(),
    key(
        "output",
        Kind::Path,
        "",
        "Run folder; default runs/<config name>, with -2, -3, … where that is there (--out wins)",
    )
    .on_resume(),
];

/// Of data.
const DATA: &[Key] = &[
    key(
        "data.train",
        Kind::Sources,
        "",
        "Image–report pairs: a manifest of any format (docs/data.md), patterns such as shard-{00..12}.tar, a folder, \
         hf://datasets/org/name[@revision], or a list of these",
    ),
    key(
        "data.weights",
        Kind::Floats(0.0, 1000.0),
        "",
        "How often rows of each data.train are drawn in an epoch; default 1",
    ),
    key(
        "data.val",
        Kind::Sources,
        "",
        "Manifest to validate on; default: the rows of data.train whose split is val_split",
    ),
    key(
        "data.phantom",
        Kind::Int(7, 1 << 20),
        "",
        "Patients of a phantom set to draw beside data.train if that is not there yet; for demos, and left out where \
         --set names another data.train",
    ),
    key("data.image_root", Kind::Path, "", "Folder that image paths start at; default: the manifest's folder"),
    key("data.image_column", Kind::Text, "\"image\"", "Column of image paths"),
    key("data.report_column", Kind::Text, "\"report\"", "Column of reports"),
    key("data.patient_id_column", Kind::Text, "\"patient_id\"", "Column of patients; used if there"),
    key("data.study_id_column", Kind::Text, "\"study_id\"", "Column of studies; used if there"),
    key("data.split_column", Kind::Text, "\"split\"", "Column of splits; used if there"),
    key("data.label_column", Kind::Text, "\"label\"", "Column of labels; used if there"),
    key(
        "data.bag.by",
        Kind::OneOf(BagBy::WORDS),
        "\"row\"",
        "What is one report with its images: a row, which may name several, or all rows of one study_id",
    ),
    key(
        "data.bag.separator",
        Kind::Text,
        "\";\"",
        "What stands between the images that a row names; \"\" = nothing does",
    ),
    key("data.bag.max", Kind::Int(1, BagPolicy::MOST as i64), "32", "Images of a bag that are read"),
    key(
        "data.bag.pick",
        Kind::OneOf(Pick::WORDS),
        "\"uniform\"",
        "Which those are of a larger bag: evenly spaced ones, the first, every n-th, or ones drawn anew each time; \
         evaluation takes evenly spaced ones",
    ),
    key(
        "data.bag.on_bad",
        Kind::OneOf(OnBadImage::WORDS),
        "\"row\"",
        "One image of several cannot be read: so cannot the row (data.on_error says what then), or it is left out",
    ),
    key("data.train_split", Kind::Text, "\"train\"", "Value of split_column to train on"),
    key("data.val_split", Kind::Text, "\"val\"", "Value of split_column to validate on"),
    key(
        "data.separator",
        Kind::OneOf(Separator::WORDS),
        "\"auto\"",
        "Separator of columns; auto reads it off the header",
    ),
    key(
        "data.views",
        Kind::OneOf(Views::WORDS),
        "\"all_views\"",
        "Studies of several rows: every row in an epoch, or one drawn anew each epoch",
    ),
    key("data.sampling", Kind::OneOf(RowOdds::WORDS), "\"uniform\"", "class_balanced draws every label equally often"),
    key(
        "data.no_duplicate_reports",
        Kind::Bool,
        "false",
        "Steps without two equal reports, which would be false negatives, as far as there are enough others",
    ),
    key(
        "data.negation",
        Kind::Float(0.0, 1.0),
        "0.0",
        "Share of reports that bring a text with one sentence turned round (no effusion and effusion, left and right, \
         small and large), as a negative of their own image; as far as a sentence can surely be turned round",
    ),
    key(
        "data.hard_negatives.k",
        Kind::Int(0, 64),
        "0",
        "Rows of other findings, studies and reports that a row meets in its step, the hardest for the model as it \
         stands, mined over all training rows; 0 = none",
    ),
    key(
        "data.hard_negatives.from",
        Kind::OneOf(HardFrom::WORDS),
        "\"text\"",
        "Hard negatives: rows whose report the row's image is near to, or whose image its report is near to",
    ),
    key("data.hard_negatives.refresh", Kind::Span, "\"1 epochs\"", "Hard negatives: how often they are mined"),
    key(
        "data.hard_negatives.margin",
        Kind::Float(-2.0, 2.0),
        "",
        "Hard negatives: none that is nearer than what is right less this much (cosine), which is likely to be right, \
         too; default no such bound",
    ),
    key(
        "data.length_buckets",
        Kind::Int(0, 1 << 20),
        "0",
        "Steps over which reports are sorted by length, so that a batch has texts of like length; 0 = no sorting",
    ),
    key(
        "data.shuffle_buffer",
        Kind::Int(0, 1 << 30),
        "0",
        "Rows over which shards are shuffled, so that a slow disk is read nearly in order; 0 = over all",
    ),
    key(
        "data.near_duplicates",
        Kind::Int(0, 1 << 30),
        "2000",
        "Look for near-duplicate images across splits when there are at most so many images; 0 = never",
    ),
    key("data.on_error", Kind::OneOf(OnError::WORDS), "\"stop\"", "What to do with a row that cannot be read"),
    key("data.max_skipped", Kind::Int(0, MAX), "100", "With on_error = \"skip\": stop when more rows than this fail")
        .on_resume(),
    key(
        "data.max_image_mib",
        Kind::Int(16, 1 << 20),
        "512",
        "MiB that decoding one image may take, and that its file may have; worked out from its header beforehand",
    )
    .per_machine(),
    key(
        "data.volume.axis",
        Kind::OneOf(Axis::WORDS),
        "\"axial\"",
        "Volumes (docs/studies-and-volumes.md): which slices",
    ),
    key(
        "data.volume.spacing",
        Kind::Spacing,
        "",
        "Volumes: millimetres between voxels after resampling: right to left, front to back, feet to head (with \
         orientation = \"stored\" along the file's three axes); default the file's",
    ),
    key(
        "data.volume.slices",
        Kind::Int(1, VolumePolicy::MOST_SLICES as i64),
        "",
        "Volumes: most slices, evenly spaced; default all",
    ),
    key(
        "data.volume.orientation",
        Kind::OneOf(Orientation::WORDS),
        "\"lps\"",
        "Volumes: lps hangs slices as radiologists do, ras has nibabel's canonical axes, stored the file's own",
    ),
    key(
        "data.window",
        Kind::Window,
        "\"percentile\"",
        "Volumes: values that become black and white after rescaling, Hounsfield units in CT; percentile: 0.5 to 99.5 \
         of all voxels, for MR; file: of each DICOM slice its own, as a viewer shows it; three of them become three \
         channels. All of this is kept in the model",
    ),
    key("data.workers", Kind::Int(1, 256), "2", "Threads that decode images and tokenize").per_machine(),
    key("data.prefetch", Kind::Int(1, 1024), "8", "Batches prepared ahead of the model").per_machine(),
    key(
        "data.cache_features",
        Kind::Bool,
        "true",
        "With frozen image layers or a frozen text tower, and nothing that changes what they see or make: work out \
         once what they give",
    ),
    key("data.feature_cache", Kind::Path, "", "Folder for that; default feature-cache beside the run folder"),
    key(
        "data.feature_precision",
        Kind::OneOf(FeaturePrecision::WORDS),
        "\"f32\"",
        "Of numbers kept there; bf16 takes half the bytes, and training goes by rounded features",
    ),
    key(
        "report.section",
        Kind::OneOf(ReportSection::WORDS),
        "\"whole\"",
        "What of a report is read; kept in the model, so that eval and embed read the same",
    ),
    key(
        "report.fallback",
        Kind::ListOf(&["whole", "impression", "findings", "both", "longest"]),
        "[\"findings\", \"impression\", \"whole\"]",
        "What is read where a report lacks that section, the first that there is",
    ),
    key(
        "report.blanks",
        Kind::OneOf(Blanks::WORDS),
        "\"remove\"",
        "What becomes of the blanks of de-identification such as ___, XXXX and [** **]",
    ),
    key(
        "report.long",
        Kind::OneOf(LongReports::WORDS),
        "\"truncate\"",
        "A report of more than context_length tokens: cut; its first whole sentences that fit; or a part of whole \
         sentences, drawn anew each time (the first when evaluating)",
    ),
    key("augment.rotation", Kind::Float(0.0, 180.0), "0.0", "Random rotation up to this many degrees each way"),
    key("augment.crop", Kind::Float(0.05, 1.0), "1.0", "Random crop that keeps at least this share of the area"),
    key("augment.brightness", Kind::Float(0.0, 1.0), "0.0", "Random brightness change up to this share"),
    key("augment.contrast", Kind::Float(0.0, 1.0), "0.0", "Random contrast change up to this share"),
    key(
        "augment.horizontal_flip",
        Kind::OneOf(Flip::WORDS),
        "\"off\"",
        "\"on\" is refused when reports name sides; \"force\" is not",
    ),
];

/// Of training.
const TRAIN: &[Key] = &[
    key("train.batch_size", Kind::Int(1, 1 << 20), "32", "Pairs that pass through the towers at once"),
    key(
        "train.accum_freq",
        Kind::Int(1, 1 << 16),
        "1",
        "Chunks a step: the loss is over batch_size × accum_freq pairs, in the memory of one chunk",
    ),
    key("train.epochs", Kind::Int(1, 1 << 20), "10", "Passes over the training pairs, unless max_steps or max_samples"),
    key("train.max_steps", Kind::Int(1, i32::MAX as i64), "", "Optimizer steps in all"),
    key("train.max_samples", Kind::Int(1, i32::MAX as i64), "", "Pairs seen in all"),
    key(
        "train.stop_after",
        Kind::Int(1, MAX),
        "",
        "Save, validate and stop at this step; the schedule still runs to the full length",
    )
    .on_resume(),
    key("train.eval_every", Kind::Span, "\"1 epochs\"", "How often to validate; also at the start and at the end")
        .on_resume_with_other_figures(),
    key(
        "train.checkpoint_every",
        Kind::Span,
        "\"1 epochs\"",
        "How often to save for --resume; also at each validation",
    )
    .on_resume(),
    key(
        "train.best_metric",
        Kind::OneOf(&["auto", "mean_recall", "loss", "auroc", "balanced_accuracy"]),
        "\"auto\"",
        "What makes a checkpoint the best, and what early_stopping and sweep --halving go by: mean recall, the \
         objective's own loss, or zero-shot AUROC or balanced accuracy by loss.prompts; auto = what fits the \
         objective, see the log",
    ),
    key(
        "train.early_stopping",
        Kind::Int(0, MAX),
        "0",
        "Stop after this many validations without a new best; 0 = never",
    )
    .on_resume_with_other_figures(),
    key("train.clip_grad_norm", Kind::Float(0.0, INF), "1.0", "Largest norm of the whole gradient; 0 = no clipping"),
    key(
        "train.ema",
        Kind::Float(0.0, 0.999_999),
        "0.0",
        "Decay of a moving average of the weights, which is then what is evaluated and handed over; 0 = none",
    ),
    key("train.dropout", Kind::Float(0.0, 0.99), "0.0", "Share of what transformer blocks hand on that is dropped"),
    key("train.patch_dropout", Kind::Float(0.0, 0.95), "0.0", "Share of each image's patches that is dropped (ViT)"),
    key(
        "train.checkpoint_activations",
        Kind::Bool,
        "false",
        "Keep only each block's input for the backward pass: less memory, about a fifth more time",
    ),
    key("train.tensorboard", Kind::Bool, "true", "Write TensorBoard events into the run folder").on_resume(),
    key(
        "train.precision",
        Kind::OneOf(Precision::WORDS),
        "\"f32\"",
        "Operands of products, convolutions and attention; sums, weights, norms, residual stream and loss are f32. \
         bf16 is for GPUs and for CPUs with AMX or AMD's AVX512-BF16; others stay in f32 and say so",
    )
    .on_resume_with_other_figures(),
    key(
        "train.emulate_bf16",
        Kind::Bool,
        "false",
        "On CPUs without products in bf16: round as they do, which is slow; for tests and studies",
    )
    .on_resume_with_other_figures(),
    key(
        "train.tensor_cores",
        Kind::Bool,
        "false",
        "On GPUs with precision = \"bf16\": also attention and convolutions in bf16, by tensor cores (1 × 1 ones of \
         stride 1 are so anyway); until a GPU has shown that this is right, they are f32 unless it is asked for",
    )
    .on_resume_with_other_figures(),
    key(
        "train.overlap_copies",
        Kind::Bool,
        "false",
        "On GPUs: copy the images of coming batches while the GPU works, from pinned memory; off until a GPU has shown \
         that it is right",
    )
    .per_machine(),
    key(
        "train.rank_timeout",
        Kind::Int(1, 86400),
        "60",
        "Several processes: seconds without a sign of life after which one counts as lost and the others end",
    )
    .on_resume(),
    key("train.log_every", Kind::Int(1, MAX), "10", "Steps between lines where there is no terminal").per_machine(),
];

/// Of what comes after training, and beside it.
const AFTER: &[Key] = &[
    key("eval.batch_size", Kind::Int(1, 1 << 20), "64", "Pairs at once when encoding to evaluate").on_resume(),
    key(
        "eval.gallery",
        Kind::Int(0, 1000),
        "0",
        "Validation images kept in the run folder for its page, with their reports and what was found: patients' data",
    )
    .on_resume(),
    key("eval.bootstrap", Kind::Int(0, 1 << 20), "1000", "Resamples for 95 % intervals, by patient; 0 = none"),
    key(
        "track.mlflow",
        Kind::Text,
        "",
        "Address of an MLflow server, such as http://localhost:5000, that figures and config are sent to while \
         training (docs/tracking.md); nothing is sent without it",
    )
    .on_resume(),
];

/// The table of keys in Markdown, as docs/config.md has it.
pub fn keys_as_markdown() -> String {
    let mut lines = vec!["| key | default | meaning |".to_string(), "|---|---|---|".to_string()];
    for key in KEYS {
        let default = if key.default.is_empty() { String::new() } else { format!("`{}`", key.default) };
        lines.push(format!(
            "| `{}` | {default} | {}; {} |",
            key.name,
            key.help,
            key.kind.allowed().replace('|', "\\|")
        ));
    }
    lines.join("\n")
}
