//! What is meant: typed values, every default filled, everything that can be checked without opening data checked.

use std::path::{Path, PathBuf};

use toml::Value;

use super::loss::{LossConfig, LossKind};
use super::sections::{
    AugmentConfig, DataConfig, EvalConfig, FreezeConfig, FreezeDepth, LoraConfig, ModelConfig, ModelInit, OptimConfig,
    ReportConfig, ScheduleKind, TrainConfig,
};
use super::span::Span;
use super::values::{Values, is_hub};
use super::written::Written;
use crate::error::{ProblemList, Problems};

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
    pub report: ReportConfig,
    pub augment: AugmentConfig,
    pub loss: LossConfig,
    pub train: TrainConfig,
    pub optim: OptimConfig,
    pub freeze: FreezeConfig,
    pub lora: LoraConfig,
    /// How long the image and the text tower stay frozen; `None` = to the end.
    pub thaw: [Option<Span>; 2],
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
            report: v.report(),
            augment: AugmentConfig {
                rotation: v.float("augment.rotation"),
                crop: v.float("augment.crop"),
                brightness: v.float("augment.brightness"),
                contrast: v.float("augment.contrast"),
                horizontal_flip: v.text("augment.horizontal_flip") != "off",
                force_flip: v.text("augment.horizontal_flip") == "force",
            },
            loss: v.loss(),
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
                ema: v.float("train.ema"),
                dropout: v.float("train.dropout"),
                patch_dropout: v.float("train.patch_dropout"),
                checkpoint_activations: v.truth("train.checkpoint_activations"),
                tensorboard: v.truth("train.tensorboard"),
                bf16: v.text("train.precision") == "bf16",
                rank_timeout: v.int("train.rank_timeout"),
                log_every: v.int("train.log_every"),
            },
            optim: OptimConfig {
                lr_image: v.optional_float("optim.lr_image").unwrap_or(lr),
                lr_text: v.optional_float("optim.lr_text").unwrap_or(lr),
                lr_heads: v.optional_float("optim.lr_heads").unwrap_or(lr),
                layer_decay: v.float("optim.layer_decay"),
                beta1: v.float("optim.beta1"),
                beta2: v.float("optim.beta2"),
                eps: v.float("optim.eps"),
                weight_decay: v.float("optim.weight_decay"),
                schedule: ScheduleKind::from_word(&v.text("optim.schedule")),
                warmup: v.span("optim.warmup"),
                min_lr_ratio: v.float("optim.min_lr_ratio"),
            },
            lora: LoraConfig {
                rank: v.size("lora.rank"),
                alpha: v.float("lora.alpha"),
                dropout: v.float("lora.dropout"),
                targets: v.words("lora.targets"),
            },
            thaw: ["freeze.image_until", "freeze.text_until"].map(|key| v.get(key).map(|_| v.span(key))),
            freeze: FreezeConfig {
                image: v.freeze("freeze.image"),
                text: v.freeze("freeze.text"),
                projections: v.truth("freeze.projections"),
                logit_scale: v.truth("freeze.logit_scale"),
            },
            eval: EvalConfig {
                batch_size: v.size("eval.batch_size"),
                gallery: v.size("eval.gallery"),
                bootstrap: v.size("eval.bootstrap"),
            },
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
        self.check_model(written, problems);
        self.check_loss(written, problems);
        if self.data.train.is_empty() && !broken("data.train") {
            problems.push(format!(
                "{}: data.train is missing; name a CSV, TSV, JSONL or Parquet manifest with columns image and report",
                written.path.display()
            ));
        }
        let phantom = self.data.train.len() == 1 && self.data.train[0].ends_with("manifest.csv");
        if self.data.phantom.is_some() && !phantom {
            problems.push(format!(
                "{}: is set, so data.train must be a file manifest.csv in a folder of its own; it is {}",
                written.place_of("data.phantom"),
                self.data.train_name()
            ));
        }
        let train = self.data.train.iter().filter(|_| self.data.phantom.is_none()).map(|path| ("data.train", path));
        for (key, path) in train.chain(self.data.val.iter().map(|path| ("data.val", path))) {
            let text = path.to_string_lossy();
            // Patterns and data sets of the hub are looked up when they are opened.
            if !path.exists() && !is_hub(&text) && !text.contains(['*', '?', '{']) {
                problems.push(format!("{}: {text}: there is no such file", written.place_of(key)));
            }
        }
        if !self.data.weights.is_empty() && self.data.weights.len() != self.data.train.len() {
            problems.push(format!(
                "{}: has {} numbers, but data.train names {}; allowed is one for each",
                written.place_of("data.weights"),
                self.data.weights.len(),
                self.data.train.len()
            ));
        }
        for (key, path) in [("data.image_root", &self.data.image_root), ("model.tokenizer", &self.model.tokenizer)] {
            if let Some(path) = path.as_ref().filter(|p| !p.is_dir()) {
                problems.push(format!("{}: {}: there is no such folder", written.place_of(key), path.display()));
            }
        }
        self.check_lengths(written, problems);
        self.check_shapes(written, problems);
    }

    fn check_loss(&self, written: &Written, problems: &mut ProblemList) {
        let place = |key: &str| written.place_of(key);
        let kinds: Vec<LossKind> = self.loss.kinds.iter().map(|(kind, _)| *kind).collect();
        if kinds.is_empty() {
            problems.push(format!("{}: names no objective", place("loss.kind")));
        }
        if let Some(twice) = (1..kinds.len()).find(|&i| kinds[..i].contains(&kinds[i])) {
            problems.push(format!("{}: names {:?} twice", place("loss.kind"), kinds[twice].word()));
        }
        let weights = written.values.get("loss.weights").and_then(|(v, _)| v.as_array().map(Vec::len));
        if let Some(count) = weights.filter(|n| *n != kinds.len()) {
            problems.push(format!(
                "{}: has {count} numbers, but loss.kind names {}; allowed is one for each",
                place("loss.weights"),
                kinds.len()
            ));
        }
        match &self.loss.prompts {
            None if self.loss.needs_prompts() => problems.push(format!(
                "{}: loss.prompts is missing; \"class\" and \"multi_label\" need a prompt file, see prompts/phantom.toml",
                place("loss.kind")
            )),
            Some(path) if !path.is_file() => {
                problems.push(format!("{}: {}: there is no such file", place("loss.prompts"), path.display()));
            }
            _ => {}
        }
        if self.loss.has(LossKind::Class) && self.loss.has(LossKind::MultiLabel) {
            problems.push(format!("{}: names class and multi_label, which want different prompts", place("loss.kind")));
        }
    }

    fn check_model(&self, written: &Written, problems: &mut ProblemList) {
        let m = &self.model;
        let broken = |key: &str| written.problems.iter().any(|p| p.contains(key));
        let named: Vec<&str> = [("model.path", &m.path), ("model.image", &m.image), ("model.text", &m.text)]
            .into_iter()
            .filter_map(|(key, name)| name.as_ref().map(|_| key))
            .collect();
        let place = |key: &str| written.place_of(key);
        match (m.init, named.as_slice()) {
            (ModelInit::Random, []) | (ModelInit::Pretrained, ["model.path"] | ["model.image", "model.text"]) => {}
            (ModelInit::Random, [first, ..]) => {
                problems.push(format!("{}: is set, but model.init is \"random\"; remove one of the two", place(first)))
            }
            (ModelInit::Pretrained, []) if !broken("model.path") => problems.push(format!(
                "{}: model.path is missing; name a folder or a hub id such as \"openai/clip-vit-base-patch32\", or two \
                 towers as model.image and model.text, or say init = \"random\"",
                written.path.display()
            )),
            (ModelInit::Pretrained, []) => {}
            (ModelInit::Pretrained, ["model.path", other, ..]) => {
                problems.push(format!("{}: is set together with model.path; keep one", place(other)));
            }
            (ModelInit::Pretrained, [one, ..]) => {
                let other = if *one == "model.image" { "model.text" } else { "model.image" };
                problems.push(format!("{}: is set without {other}; a pair needs both towers", place(one)));
            }
        }
        let pair = m.image.is_some() || m.text.is_some();
        for key in ["model.image_pooling", "model.text_pooling", "model.projection", "model.embed_dim"] {
            // A run's own config names every key, with its default where nobody chose.
            let default = (Values { written: &Written::default() }).get(key);
            if !pair && self.value(key) != default.as_ref() {
                problems.push(format!("{}: is set, but only pairs of model.image and model.text have it", place(key)));
            }
        }
    }

    fn check_lengths(&self, written: &Written, problems: &mut ProblemList) {
        if self.lora.rank > 0 && self.lora.targets.is_empty() {
            problems.push(format!("{}: names no layer", written.place_of("lora.targets")));
        }
        let towers = [("image", self.freeze.image), ("text", self.freeze.text)];
        for ((tower, depth), _) in towers.iter().zip(self.thaw).filter(|(_, until)| until.is_some()) {
            if *depth == FreezeDepth::None {
                let key = format!("freeze.{tower}_until");
                problems.push(format!("{}: is set, but freeze.{tower} is \"none\"", written.place_of(&key)));
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
    }

    fn check_shapes(&self, written: &Written, problems: &mut ProblemList) {
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
