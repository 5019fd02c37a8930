//! Written values with defaults filled in, nested as TOML writes them.

use std::path::{Path, PathBuf};

use toml::Value;

use super::key::Key;
use super::keys::KEYS;
use super::kind::Kind;
use super::written::{Origin, Written};
use crate::loss;

/// Keys whose value is a folder or a hub id.
const MODEL_NAMES: [&str; 4] = ["model.path", "model.image", "model.text", "loss.teacher"];

/// Values with defaults. A value that failed its check is read as its default; the problem is already on the list.
pub(super) struct Values<'a> {
    pub written: &'a Written,
}

impl Values<'_> {
    /// The written value, or the default; `None` where there is neither.
    pub fn get(&self, key: &Key) -> Option<Value> {
        self.written.values.get(key.name).map(|(value, _)| value.clone()).or_else(|| key.default())
    }

    /// Every key with a value: paths as they lead there from here, sources as lists.
    pub fn typed(&self) -> toml::Table {
        self.table(|key| match key.kind {
            Kind::Path => self.path(key.name).map(|path| text(&path)),
            Kind::Sources => {
                let sources: Vec<Value> = self.sources(key.name).iter().map(|path| text(path)).collect();
                Some(Value::Array(sources)).filter(|_| self.written.values.contains_key(key.name))
            }
            _ => self.other(key),
        })
    }

    /// Every key with a value as a config file has it; paths absolute, so that the file works from anywhere.
    pub fn resolved(&self) -> toml::Table {
        self.table(|key| match key.kind {
            Kind::Path => self.path(key.name).map(|path| absolute(&path)),
            Kind::Sources => {
                let mut sources: Vec<Value> = self.sources(key.name).iter().map(|path| absolute(path)).collect();
                if sources.len() > 1 { Some(Value::Array(sources)) } else { sources.pop() }
            }
            _ => self.other(key),
        })
    }

    fn other(&self, key: &Key) -> Option<Value> {
        match key.name {
            name if MODEL_NAMES.contains(&name) => self.model_name(name).map(Value::String),
            "loss.label_smoothing" => self.label_smoothing(key),
            _ => self.get(key),
        }
    }

    /// What `value` says of each key, nested.
    fn table(&self, value: impl Fn(&Key) -> Option<Value>) -> toml::Table {
        let mut root = toml::Table::new();
        for key in KEYS {
            let mut table = &mut root;
            let mut parts: Vec<&str> = key.name.split('.').collect();
            let leaf = parts.pop().unwrap_or_default();
            let Some(value) = value(key) else { continue };
            for part in parts {
                let section = table.entry(part).or_insert_with(|| Value::Table(toml::Table::new()));
                table = section.as_table_mut().expect("a section is no key");
            }
            table.insert(leaf.to_string(), value);
        }
        root
    }

    /// Where nobody chose: the largest that an objective has by default.
    fn label_smoothing(&self, key: &Key) -> Option<Value> {
        let chosen = self.written.values.contains_key(key.name);
        let kinds = KEYS.iter().find(|k| k.name == "loss.kind").and_then(|kind| self.get(kind));
        let kinds = kinds.iter().filter_map(Value::as_array).flatten().filter_map(|v| loss::find(v.as_str()?));
        let default = kinds.map(|kind| kind.label_smoothing).fold(0.0, f64::max);
        self.get(key).filter(|_| chosen).or(Some(Value::Float(default)))
    }

    /// In the file, relative to the file's folder; in `--set`, relative to the working directory.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let (value, origin) = self.written.values.get(name)?;
        Some(self.folder(origin).join(value.as_str()?))
    }

    /// Every one of a list of sources; names of the hub stay as they are.
    fn sources(&self, name: &str) -> Vec<PathBuf> {
        let Some((value, origin)) = self.written.values.get(name) else { return Vec::new() };
        let texts = value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str));
        texts.map(|text| if is_hub(text) { PathBuf::from(text) } else { self.folder(origin).join(text) }).collect()
    }

    /// Where relative paths of this origin start.
    fn folder(&self, origin: &Origin) -> &Path {
        match origin {
            Origin::Line(_) => self.written.path.parent().unwrap_or(Path::new("")),
            Origin::Set => Path::new(""),
        }
    }

    /// A hub id stays as it is; a folder relative to the config file becomes a path from here.
    fn model_name(&self, key: &str) -> Option<String> {
        let (value, _) = self.written.values.get(key)?;
        let text = value.as_str()?;
        let beside = self.path(key)?;
        // An existing folder wins; a hub id names no folder.
        if !beside.is_dir() && !text.starts_with('.') {
            return Some(text.to_string());
        }
        Some(std::path::absolute(&beside).unwrap_or(beside).to_string_lossy().into_owned())
    }
}

/// A data set of the Hub, in Python's notation.
pub(super) fn is_hub(text: &str) -> bool {
    text.starts_with("hf://")
}

fn text(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

fn absolute(path: &Path) -> Value {
    if is_hub(&path.to_string_lossy()) {
        return text(path);
    }
    text(&std::path::absolute(path).unwrap_or(path.to_path_buf()))
}
