//! Written values with defaults filled in, and the sections made of them.

use std::path::{Path, PathBuf};

use toml::Value;

use super::keys::KEYS;
use super::kind::Kind;
use super::loss::{Blank, ClassWeights, Direction, LossConfig, LossKind, Positives, Smoothing, Uncertain};
use super::sections::{
    DataConfig, FreezeDepth, LongReports, ModelConfig, ModelInit, OnError, RandomModelConfig, ReportConfig,
    ReportSection,
};
use super::span::Span;
use super::written::{Origin, Written};

/// Keys whose value is a folder or a hub id.
const MODEL_NAMES: [&str; 3] = ["model.path", "model.image", "model.text"];

/// Values with defaults. A value that failed its check is read as its default; the problem is already on the list.
pub(super) struct Values<'a> {
    pub written: &'a Written,
}

impl Values<'_> {
    pub fn get(&self, name: &str) -> Option<Value> {
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

    pub fn optional_int(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|v| v.as_integer()).map(|n| n as u64)
    }

    pub fn int(&self, name: &str) -> u64 {
        self.optional_int(name).unwrap_or_default()
    }

    pub fn size(&self, name: &str) -> usize {
        self.int(name) as usize
    }

    pub fn optional_float(&self, name: &str) -> Option<f64> {
        self.get(name).and_then(|v| v.as_float())
    }

    pub fn float(&self, name: &str) -> f64 {
        self.optional_float(name).unwrap_or_default()
    }

    /// The sigmoid loss has none of its own, so that is its default.
    fn label_smoothing(&self) -> Value {
        let chosen = self.written.values.contains_key("loss.label_smoothing");
        let siglip = self.list("loss.kind").iter().all(|v| v.as_str() == Some("siglip"));
        let value = self.get("loss.label_smoothing").filter(|_| chosen || !siglip);
        value.unwrap_or(Value::Float(0.0))
    }

    pub fn loss(&self) -> LossConfig {
        let number = |v: &Value| v.as_float().or(v.as_integer().map(|n| n as f64));
        let kinds = self.list("loss.kind").into_iter().filter_map(|v| v.as_str().map(LossKind::from_word));
        let weights = self.list("loss.weights");
        let weights = weights.iter().filter_map(number).chain(std::iter::repeat(1.0));
        let label_smoothing = match &self.label_smoothing() {
            Value::Table(table) => Smoothing {
                from: table.get("from").and_then(number).unwrap_or_default(),
                to: table.get("to").and_then(number).unwrap_or_default(),
                over: match table.get("over") {
                    Some(Value::Integer(n)) => Span::Steps(*n as u64),
                    other => other.and_then(Value::as_str).and_then(Span::parse).unwrap_or(Span::Steps(0)),
                },
            },
            constant => Smoothing::constant(number(constant).unwrap_or_default()),
        };
        let class_weights = match self.get("loss.class_weights") {
            Some(Value::Array(list)) => ClassWeights::List(list.iter().filter_map(number).collect()),
            Some(Value::String(s)) if s == "balanced" => ClassWeights::Balanced,
            _ => ClassWeights::None,
        };
        LossConfig {
            kinds: kinds.zip(weights).collect(),
            label_smoothing,
            direction: Direction::from_word(&self.text("loss.direction")),
            prompts: self.path("loss.prompts"),
            class_weights,
            positives: Positives::from_word(&self.text("loss.positives")),
            uncertain: Uncertain::from_word(&self.text("loss.uncertain")),
            blank: Blank::from_word(&self.text("loss.blank")),
        }
    }

    pub fn truth(&self, name: &str) -> bool {
        self.get(name).and_then(|b| b.as_bool()).unwrap_or_default()
    }

    pub fn text(&self, name: &str) -> String {
        self.get(name).and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
    }

    pub fn optional_text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(|v| v.as_str().map(str::to_string))
    }

    /// In the file, relative to the file's folder; in `--set`, relative to the working directory.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let (value, origin) = self.written.values.get(name)?;
        let path = PathBuf::from(value.as_str()?);
        Some(match origin {
            Origin::Line(_) => self.written.path.parent().unwrap_or(Path::new("")).join(path),
            Origin::Set => path,
        })
    }

    /// Every one of a list of sources; names of the hub stay as they are.
    pub fn sources(&self, name: &str) -> Vec<PathBuf> {
        let Some((value, origin)) = self.written.values.get(name) else { return Vec::new() };
        let folder = match origin {
            Origin::Line(_) => self.written.path.parent().unwrap_or(Path::new("")),
            Origin::Set => Path::new(""),
        };
        let texts = value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str));
        texts.map(|text| if is_hub(text) { PathBuf::from(text) } else { folder.join(text) }).collect()
    }

    fn list(&self, name: &str) -> Vec<Value> {
        self.get(name).and_then(|v| v.as_array().cloned()).unwrap_or_default()
    }

    /// A list of words.
    pub fn words(&self, name: &str) -> Vec<String> {
        self.list(name).iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
    }

    pub fn report(&self) -> ReportConfig {
        let fallback = self.list("report.fallback");
        ReportConfig {
            section: ReportSection::from_word(&self.text("report.section")),
            fallback: fallback.iter().filter_map(Value::as_str).map(ReportSection::from_word).collect(),
            remove_blanks: self.text("report.blanks") == "remove",
            long: LongReports::from_word(&self.text("report.long")),
        }
    }

    pub fn span(&self, name: &str) -> Span {
        match self.get(name) {
            Some(Value::Integer(n)) => Span::Steps(n as u64),
            Some(Value::String(s)) => Span::parse(&s).unwrap_or(Span::Steps(1)),
            _ => Span::Steps(1),
        }
    }

    pub fn freeze(&self, name: &str) -> FreezeDepth {
        match self.get(name) {
            Some(Value::Integer(n)) => FreezeDepth::Blocks(n as usize),
            Some(Value::String(s)) if s == "all" => FreezeDepth::All,
            _ => FreezeDepth::None,
        }
    }

    pub fn model(&self) -> ModelConfig {
        let random = |key: &str| self.size(&format!("model.random.{key}"));
        let pooling = |key: &str| self.optional_text(key).filter(|word| word != "auto");
        ModelConfig {
            init: ModelInit::from_word(&self.text("model.init")),
            path: self.model_name("model.path"),
            image: self.model_name("model.image"),
            text: self.model_name("model.text"),
            image_pooling: pooling("model.image_pooling"),
            text_pooling: pooling("model.text_pooling"),
            mlp_projection: self.text("model.projection") == "mlp",
            embed_dim: self.size("model.embed_dim"),
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
    pub fn model_name(&self, key: &str) -> Option<String> {
        let text = self.optional_text(key)?;
        let beside = self.path(key)?;
        // An existing folder wins; a hub id names no folder.
        if !beside.is_dir() && !text.starts_with('.') {
            return Some(text);
        }
        Some(std::path::absolute(&beside).unwrap_or(beside).to_string_lossy().into_owned())
    }

    pub fn data(&self) -> DataConfig {
        let column = |key: &str| self.text(&format!("data.{key}"));
        DataConfig {
            train: self.sources("data.train"),
            weights: {
                let number = |v: &Value| v.as_float().or(v.as_integer().map(|n| n as f64));
                self.list("data.weights").iter().filter_map(number).collect()
            },
            val: self.sources("data.val"),
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
            one_view: self.text("data.views") == "one_view",
            class_balanced: self.text("data.sampling") == "class_balanced",
            no_duplicate_reports: self.truth("data.no_duplicate_reports"),
            length_buckets: self.size("data.length_buckets"),
            shuffle_buffer: self.size("data.shuffle_buffer"),
            near_duplicates: self.size("data.near_duplicates"),
            on_error: OnError::from_word(&self.text("data.on_error")),
            max_skipped: self.size("data.max_skipped"),
            workers: self.size("data.workers"),
            prefetch: self.size("data.prefetch"),
            cache_features: self.truth("data.cache_features"),
            feature_cache: self.path("data.feature_cache"),
        }
    }

    /// Every key with a value, nested as TOML writes it; paths absolute, so that the file works from anywhere.
    pub fn table(&self) -> toml::Table {
        let mut root = toml::Table::new();
        for key in KEYS {
            let value = match key.kind {
                Kind::Path => self.path(key.name).map(|p| Value::String(absolute(&p))),
                Kind::Sources => {
                    let mut paths: Vec<Value> =
                        self.sources(key.name).iter().map(|p| Value::String(absolute(p))).collect();
                    if paths.len() > 1 { Some(Value::Array(paths)) } else { paths.pop() }
                }
                _ if MODEL_NAMES.contains(&key.name) => self.model_name(key.name).map(Value::String),
                _ if key.name == "loss.label_smoothing" => Some(self.label_smoothing()),
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

/// A data set of the Hub, in Python's notation.
pub(super) fn is_hub(text: &str) -> bool {
    text.starts_with("hf://")
}

fn absolute(path: &Path) -> String {
    let text = path.to_string_lossy();
    if is_hub(&text) {
        return text.into_owned();
    }
    std::path::absolute(path).unwrap_or(path.to_path_buf()).to_string_lossy().into_owned()
}
