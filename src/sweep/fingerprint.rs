//! What a member was made from, so that a member that was made from something else is not taken for it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::config::{Config, KEYS, Kind};
use crate::data::fingerprint::image_contents;
use crate::data::{Columns, Manifest, sources};
use crate::digest::{ContentHash, hex, of_tree};
use crate::hub::{ModelFiles, Source};

/// Everything that changes what a member learns, or what it is compared by, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(BTreeMap<String, Part>);

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    /// As it is written.
    value: String,
    /// Of the files that it names.
    content: Option<String>,
}

impl Part {
    /// Files are the same wherever they lie.
    fn is_same(&self, other: &Self) -> bool {
        match (&self.content, &other.content) {
            (Some(a), Some(b)) => a == b,
            _ => self.value == other.value,
        }
    }
}

impl Fingerprint {
    /// What `config` trains on and how: keys that change weights or which step is the best, and the content of
    /// manifests, their images, prompts, tokenizer and model.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of_training(config: &Config, digests: &mut Digests) -> Result<Self> {
        let mut fingerprint = Self::default();
        for key in KEYS.iter().filter(|key| !key.may_differ_when_done()) {
            let Some(value) = config.value(key.name) else { continue };
            let text = value.as_str();
            let content = match (key.kind, key.name) {
                (Kind::Sources, _) => Some(digests.of_sources(value, config)?),
                (_, "loss.prompts" | "model.tokenizer") => text.map(|path| digests.of(Path::new(path))).transpose()?,
                (_, "model.path" | "model.image" | "model.text") => {
                    text.map(|name| digests.of_model(name)).transpose()?
                }
                _ => None,
            };
            fingerprint.insert(key.name, &value.to_string(), content);
        }
        Ok(fingerprint)
    }

    /// Adds a thing.
    pub fn insert(&mut self, name: &str, value: &str, content: Option<String>) {
        self.0.insert(name.to_string(), Part { value: value.to_string(), content });
    }

    /// What is not as it was `before`, in words.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        let change = |name: &String| match (before.0.get(name), self.0.get(name)) {
            (Some(was), Some(is)) if was.is_same(is) => None,
            (Some(was), Some(is)) if was.value == is.value => {
                Some(format!("what {name} = {} holds has changed", is.value))
            }
            (was, is) => {
                let show = |part: Option<&Part>| part.map_or("not set".into(), |p| p.value.clone());
                Some(format!("{name} was {} and is {} now", show(was), show(is)))
            }
        };
        names.into_iter().filter_map(change).collect()
    }
}

/// Digests of files, each read once.
#[derive(Debug, Default)]
pub struct Digests(HashMap<PathBuf, String>);

impl Digests {
    /// Of a file, or of all files of a folder with their names.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(&mut self, path: &Path) -> Result<String> {
        if let Some(known) = self.0.get(path) {
            return Ok(known.clone());
        }
        let digest = hex(&of_tree(path)?);
        self.0.insert(path.to_path_buf(), digest.clone());
        Ok(digest)
    }

    /// Of the files of data.train and its like, in their order, with their images.
    fn of_sources(&mut self, value: &Value, config: &Config) -> Result<String> {
        let mut hash = ContentHash::default();
        for source in value.as_str().into_iter().chain(value.as_array().into_iter().flatten().filter_map(Value::as_str))
        {
            hash.field(self.of_source(Path::new(source), config)?);
        }
        Ok(hash.hex())
    }

    /// Of all files with rows that a source names, and of these rows' images, as `config` finds them.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of_source(&mut self, source: &Path, config: &Config) -> Result<String> {
        let (columns, root) = (Columns::from(&config.data), config.data.image_root.as_deref());
        // Under a name that no file has: the same rows may have other images elsewhere.
        let key = PathBuf::from(format!("{}\0{root:?}\0{}", source.display(), columns.image));
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let mut hash = ContentHash::default();
        for file in sources::expand(source)? {
            hash.field(self.of(&file)?);
        }
        let rows = Manifest::open(source, &columns, root)?.rows;
        image_contents(&rows.iter().collect::<Vec<_>>()).iter().for_each(|content| hash.field(content));
        let digest = hash.hex();
        self.0.insert(key, digest.clone());
        Ok(digest)
    }

    /// Of a folder, or the commit of a repository of the hub.
    fn of_model(&mut self, name: &str) -> Result<String> {
        match Source::parse(name)? {
            Source::Folder(folder) => self.of(&folder),
            hub => Ok(ModelFiles::open(&hub)?.commit().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named_and_a_move_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for (name, text) in [("a", "x"), ("b", "x"), ("c", "y")] {
            std::fs::create_dir(place(name)).unwrap();
            std::fs::write(place(name).join("weights"), text).unwrap();
        }
        let of = |lr: &str, folder: &str| {
            let mut print = Fingerprint::default();
            print.insert("optim.lr", lr, None);
            print.insert("model.path", folder, Some(Digests::default().of(&place(folder)).unwrap()));
            print
        };
        assert!(of("1", "b").changes(&of("1", "a")).is_empty());
        assert_eq!(of("2", "b").changes(&of("1", "a")), ["optim.lr was 1 and is 2 now"]);
        assert_eq!(of("1", "c").changes(&of("1", "a")), ["model.path was a and is c now"]);
        let before = of("1", "a");
        std::fs::write(place("a").join("weights"), "z").unwrap();
        assert_eq!(of("1", "a").changes(&before), ["what model.path = a holds has changed"]);
        assert_eq!(before.changes(&Fingerprint::default())[1], "optim.lr was not set and is 1 now");
    }
}
