//! What is meant: typed values, every default filled, everything that can be checked without opening data checked.

use std::path::{Path, PathBuf};

use toml::Value;

use super::keys::{KEYS, Kind};
use super::span::Span;
use super::written::{Origin, Written};
use crate::error::{ProblemList, Problems};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            fn from_word(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)+
                    other => unreachable!("{other:?} passed the table of keys"),
                }
            }
        }
    };
}

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
    /// The objective.
    LossKind {
        /// Symmetric cross-entropy over the batch diagonal.
        Clip = "clip",
    }
);
words!(
    /// Which cross-entropies count.
    DirectionName {
        /// Both.
        Both = "both",
        /// Image to text.
        ImageToText = "i2t",
        /// Text to image.
        TextToImage = "t2i",
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
    /// Embeddings and this many blocks.
    Blocks(usize),
    /// The whole tower.
    All,
}

/// Where the model comes from.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // Fields are documented by the table of keys, here and below.
pub struct ModelConfig {
    pub init: ModelInit,
    pub path: Option<String>,
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
    pub train: PathBuf,
    pub val: Option<PathBuf>,
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
    pub on_error: OnError,
    pub max_skipped: usize,
    pub workers: usize,
    pub prefetch: usize,
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

/// The objective.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct LossConfig {
    pub kind: LossKind,
    pub label_smoothing: f64,
    pub direction: DirectionName,
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
    pub log_every: u64,
}

/// The optimizer and its schedule.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct OptimConfig {
    pub lr_image: f64,
    pub lr_text: f64,
    pub lr_heads: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub schedule: ScheduleKind,
    pub warmup: Span,
    pub min_lr_ratio: f64,
}

/// What training leaves as it is.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct FreezeConfig {
    pub image: FreezeDepth,
    pub text: FreezeDepth,
    pub projections: bool,
    pub logit_scale: bool,
}

/// How validation is done.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct EvalConfig {
    pub batch_size: usize,
    pub bootstrap: usize,
}

/// A whole run, resolved.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Config {
    pub seed: u64,
    pub device: String,
    pub output: PathBuf,
    /// Nobody chose `output`.
    pub output_is_default: bool,
    pub model: ModelConfig,
    pub data: DataConfig,
    pub augment: AugmentConfig,
    pub loss: LossConfig,
    pub train: TrainConfig,
    pub optim: OptimConfig,
    pub freeze: FreezeConfig,
    pub eval: EvalConfig,
    /// Every key with a value, defaults included, paths absolute: what `config.toml` of a run folder holds.
    pub resolved: toml::Table,
}

impl Config {
    /// Fills defaults and checks values against one another.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn resolve(written: &Written) -> Result<Self, Problems> {
        let mut problems = Written::into_problem_list(&written.problems);
        let v = Values { written };
        let (model, data) = (v.model(), v.data());
        let stem = written.path.file_stem().map_or("run".into(), |s| s.to_string_lossy().into_owned());
        let lr = v.float("optim.lr");
        let config = Self {
            seed: v.int("seed"),
            device: v.text("device"),
            output: v.path("output").unwrap_or_else(|| Path::new("runs").join(stem)),
            output_is_default: v.path("output").is_none(),
            model,
            data,
            augment: AugmentConfig {
                rotation: v.float("augment.rotation"),
                crop: v.float("augment.crop"),
                brightness: v.float("augment.brightness"),
                contrast: v.float("augment.contrast"),
                horizontal_flip: v.text("augment.horizontal_flip") != "off",
                force_flip: v.text("augment.horizontal_flip") == "force",
            },
            loss: LossConfig {
                kind: LossKind::from_word(&v.text("loss.kind")),
                label_smoothing: v.float("loss.label_smoothing"),
                direction: DirectionName::from_word(&v.text("loss.direction")),
            },
            train: TrainConfig {
                batch_size: v.size("train.batch_size"),
                accum_freq: v.size("train.accum_freq"),
                epochs: v.int("train.epochs"),
                max_steps: v.optional_int("train.max_steps"),
                max_samples: v.optional_int("train.max_samples"),
                stop_after: v.optional_int("train.stop_after"),
                eval_every: v.span("train.eval_every"),
                checkpoint_every: v.span("train.checkpoint_every"),
                best_by_recall: v.text("train.best_metric") == "mean_recall",
                early_stopping: v.int("train.early_stopping"),
                clip_grad_norm: v.float("train.clip_grad_norm"),
                log_every: v.int("train.log_every"),
            },
            optim: OptimConfig {
                lr_image: v.optional_float("optim.lr_image").unwrap_or(lr),
                lr_text: v.optional_float("optim.lr_text").unwrap_or(lr),
                lr_heads: v.optional_float("optim.lr_heads").unwrap_or(lr),
                beta1: v.float("optim.beta1"),
                beta2: v.float("optim.beta2"),
                eps: v.float("optim.eps"),
                weight_decay: v.float("optim.weight_decay"),
                schedule: ScheduleKind::from_word(&v.text("optim.schedule")),
                warmup: v.span("optim.warmup"),
                min_lr_ratio: v.float("optim.min_lr_ratio"),
            },
            freeze: FreezeConfig {
                image: v.freeze("freeze.image"),
                text: v.freeze("freeze.text"),
                projections: v.get("freeze.projections").and_then(|b| b.as_bool()).unwrap_or(false),
                logit_scale: v.get("freeze.logit_scale").and_then(|b| b.as_bool()).unwrap_or(false),
            },
            eval: EvalConfig { batch_size: v.size("eval.batch_size"), bootstrap: v.size("eval.bootstrap") },
            resolved: v.table(),
        };
        config.check(written, &mut problems);
        problems.finish()?;
        Ok(config)
    }

    /// The value of a dotted key, defaults included.
    pub fn value(&self, name: &str) -> Option<&Value> {
        let mut parts = name.split('.');
        let first = self.resolved.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// Pairs that one optimizer step sees.
    pub fn samples_per_step(&self) -> usize {
        self.train.batch_size * self.train.accum_freq
    }

    /// The resolved config as a file that `train` takes.
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.resolved).expect("a table of plain values is always TOML")
    }

    fn check(&self, written: &Written, problems: &mut ProblemList) {
        let broken = |key: &str| written.problems.iter().any(|p| p.contains(key));
        match (self.model.init, &self.model.path) {
            (ModelInit::Pretrained, None) if !broken("model.path") => problems.push(format!(
                "{}: model.path is missing; name a folder or a hub id such as \"openai/clip-vit-base-patch32\", or say \
                 init = \"random\"",
                written.path.display()
            )),
            (ModelInit::Random, Some(_)) => problems.push(format!(
                "{}: is set, but model.init is \"random\"; remove one of the two",
                written.place_of("model.path")
            )),
            _ => {}
        }
        if self.data.train.as_os_str().is_empty() && !broken("data.train") {
            problems.push(format!(
                "{}: data.train is missing; name a CSV, TSV or JSONL manifest with columns image and report",
                written.path.display()
            ));
        }
        let train = Some(&self.data.train).filter(|_| self.data.phantom.is_none());
        for (key, path) in [("data.train", train), ("data.val", self.data.val.as_ref())] {
            if let Some(path) = path.filter(|p| !p.as_os_str().is_empty())
                && !path.is_file()
            {
                let hint = if path.is_dir() { "is a folder; name the manifest in it" } else { "there is no such file" };
                problems.push(format!("{}: {}: {hint}", written.place_of(key), path.display()));
            }
        }
        for (key, path) in [("data.image_root", &self.data.image_root), ("model.tokenizer", &self.model.tokenizer)] {
            if let Some(path) = path.as_ref().filter(|p| !p.is_dir()) {
                problems.push(format!("{}: {}: there is no such folder", written.place_of(key), path.display()));
            }
        }
        if self.samples_per_step() < 2 {
            problems.push(format!(
                "{}: is 1; a contrastive loss needs at least 2 pairs in a step, and gets better with more",
                written.place_of("train.batch_size")
            ));
        }
        if self.train.max_steps.is_some() && self.train.max_samples.is_some() {
            problems.push(format!(
                "{}: is set together with train.max_steps; keep one",
                written.place_of("train.max_samples")
            ));
        }
        for (key, span) in
            [("train.eval_every", self.train.eval_every), ("train.checkpoint_every", self.train.checkpoint_every)]
        {
            if span.steps(1, 1, 100) == 0 {
                problems.push(format!("{}: is {span}; allowed is more than 0", written.place_of(key)));
            }
        }
        if let Some(size) = self.model.image_size
            && self.model.init == ModelInit::Random
            && self.model.random.patch_size > size
        {
            problems.push(format!(
                "{}: is {}, larger than model.image_size {size}",
                written.place_of("model.random.patch_size"),
                self.model.random.patch_size
            ));
        }
        let r = &self.model.random;
        for (tower, width, heads) in [("vision", r.vision_width, r.vision_heads), ("text", r.text_width, r.text_heads)]
        {
            if width % heads != 0 {
                let key = format!("model.random.{tower}_heads");
                problems.push(format!(
                    "{}: is {heads}, which does not divide model.random.{tower}_width {width}",
                    written.place_of(&key)
                ));
            }
        }
    }
}

/// Values with defaults. A value that failed its check is read as its default; the problem is already on the list.
struct Values<'a> {
    written: &'a Written,
}

impl Values<'_> {
    fn get(&self, name: &str) -> Option<Value> {
        if let Some((value, _)) = self.written.values.get(name) {
            return Some(value.clone());
        }
        let key = KEYS.iter().find(|k| k.name == name).unwrap_or_else(|| panic!("{name} is not in the table of keys"));
        if key.default.is_empty() {
            return None;
        }
        let mut table: toml::Table = format!("v = {}", key.default).parse().expect("defaults are TOML");
        table.remove("v")
    }

    fn optional_int(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|v| v.as_integer()).map(|n| n as u64)
    }

    fn int(&self, name: &str) -> u64 {
        self.optional_int(name).unwrap_or_default()
    }

    fn size(&self, name: &str) -> usize {
        self.int(name) as usize
    }

    fn optional_float(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(|v| v.as_float())
    }

    fn float(&self, name: &str) -> f64 {
        self.optional_float(name).unwrap_or_default()
    }

    fn text(&self, name: &str) -> String {
        self.get(name).and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
    }

    fn optional_text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|v| v.as_str().map(str::to_string))
    }

    /// In the file, relative to the file's folder; in `--set`, relative to the working directory.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let (value, origin) = self.written.values.get(name)?;
        let path = PathBuf::from(value.as_str()?);
        Some(match origin {
            Origin::Line(_) => self.written.path.parent().unwrap_or(Path::new("")).join(path),
            Origin::Set => path,
        })
    }

    fn span(&self, name: &str) -> Span {
        match self.get(name) {
            Some(Value::Integer(n)) => Span::Steps(n as u64),
            Some(Value::String(s)) => Span::parse(&s).unwrap_or(Span::Steps(1)),
            _ => Span::Steps(1),
        }
    }

    fn freeze(&self, name: &str) -> FreezeDepth {
        match self.get(name) {
            Some(Value::Integer(n)) => FreezeDepth::Blocks(n as usize),
            Some(Value::String(s)) if s == "all" => FreezeDepth::All,
            _ => FreezeDepth::None,
        }
    }

    fn model(&self) -> ModelConfig {
        let random = |key: &str| self.size(&format!("model.random.{key}"));
        ModelConfig {
            init: ModelInit::from_word(&self.text("model.init")),
            path: self.model_path(),
            image_size: self.optional_int("model.image_size").map(|n| n as usize),
            context_length: self.optional_int("model.context_length").map(|n| n as usize),
            tokenizer: self.path("model.tokenizer"),
            random: RandomModelConfig {
                vocab_size: random("vocab_size"),
                embed_dim: random("embed_dim"),
                patch_size: random("patch_size"),
                vision_width: random("vision_width"),
                vision_layers: random("vision_layers"),
                vision_heads: random("vision_heads"),
                text_width: random("text_width"),
                text_layers: random("text_layers"),
                text_heads: random("text_heads"),
            },
        }
    }

    /// A hub id stays as it is; a folder relative to the config file becomes a path from here.
    fn model_path(&self) -> Option<String> {
        let text = self.optional_text("model.path")?;
        let beside = self.path("model.path")?;
        // An existing folder wins; a hub id names no folder.
        if !beside.is_dir() && !text.starts_with('.') {
            return Some(text);
        }
        Some(std::path::absolute(&beside).unwrap_or(beside).to_string_lossy().into_owned())
    }

    fn data(&self) -> DataConfig {
        let column = |key: &str| self.text(&format!("data.{key}"));
        DataConfig {
            train: self.path("data.train").unwrap_or_default(),
            val: self.path("data.val"),
            phantom: self.optional_int("data.phantom").map(|n| n as usize),
            image_root: self.path("data.image_root"),
            image_column: column("image_column"),
            report_column: column("report_column"),
            patient_id_column: column("patient_id_column"),
            study_id_column: column("study_id_column"),
            split_column: column("split_column"),
            label_column: column("label_column"),
            train_split: column("train_split"),
            val_split: column("val_split"),
            separator: match self.text("data.separator").as_str() {
                "comma" => Some(b','),
                "tab" => Some(b'\t'),
                "semicolon" => Some(b';'),
                "pipe" => Some(b'|'),
                _ => None,
            },
            on_error: OnError::from_word(&self.text("data.on_error")),
            max_skipped: self.size("data.max_skipped"),
            workers: self.size("data.workers"),
            prefetch: self.size("data.prefetch"),
        }
    }

    /// Every key with a value, nested as TOML writes it; paths absolute, so that the file works from anywhere.
    fn table(&self) -> toml::Table {
        let mut root = toml::Table::new();
        for key in KEYS {
            let value = match key.kind {
                Kind::Path => self.path(key.name).map(|p| {
                    let absolute = std::path::absolute(&p).unwrap_or(p);
                    Value::String(absolute.to_string_lossy().into_owned())
                }),
                _ if key.name == "model.path" => self.model_path().map(Value::String),
                _ => self.get(key.name),
            };
            let Some(value) = value else { continue };
            let mut table = &mut root;
            let mut parts: Vec<&str> = key.name.split('.').collect();
            let leaf = parts.pop().unwrap_or_default();
            for part in parts {
                let section = table.entry(part).or_insert_with(|| Value::Table(toml::Table::new()));
                table = section.as_table_mut().expect("a section is no key");
            }
            table.insert(leaf.to_string(), value);
        }
        root
    }
}
