//! What a member was made from, so that a member that was made from something else is not taken for it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use toml::Value;

use crate::config::{Config, KEYS, Kind};
use crate::data::{Columns, ImageFiles, ImageSource, Manifest, Row, sources};
use crate::digest::{ContentHash, Depth, WHOLE, hex, of_file, of_tree};
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::model_digest;
use crate::search::RowIdentity;

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
                (Kind::Sources, _) => Some(digests.of_sources(&paths(value), config)?),
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

/// The paths of data.train and its like.
fn paths(value: &Value) -> Vec<&Path> {
    let listed = value.as_array().into_iter().flatten().filter_map(Value::as_str);
    value.as_str().into_iter().chain(listed).map(Path::new).collect()
}

/// Digests of files, each read once.
#[derive(Debug)]
pub struct Digests {
    /// Of what is named, by its name.
    named: HashMap<String, String>,
    /// Of files with rows.
    files: HashMap<(PathBuf, Depth), [u8; 32]>,
    /// Up to so many bytes in all, files are read whole.
    whole: u64,
}

impl Default for Digests {
    fn default() -> Self {
        Self { named: HashMap::new(), files: HashMap::new(), whole: WHOLE }
    }
}

impl Digests {
    /// Of a file, or of all files of a folder with their names.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of(&mut self, path: &Path) -> Result<String> {
        let key = path.to_string_lossy().into_owned();
        if let Some(known) = self.named.get(&key) {
            return Ok(known.clone());
        }
        let digest = hex(&of_tree(path)?);
        self.named.insert(key, digest.clone());
        Ok(digest)
    }

    /// Of all files with rows that these sources name, in their order, and of these rows' images, as `config` finds
    /// them. How much of each is read goes by the bytes of all.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of_sources(&mut self, sources: &[&Path], config: &Config) -> Result<String> {
        let (columns, root) = (Columns::from(&config.data), config.data.image_root.as_deref());
        // The same rows may have other images elsewhere.
        let key = format!("{sources:?}\0{root:?}\0{}", columns.image);
        if let Some(known) = self.named.get(&key) {
            return Ok(known.clone());
        }
        let (mut files, mut rows) = (Vec::new(), Vec::new());
        for source in sources {
            files.extend(sources::expand(source)?);
            rows.extend(Manifest::open(source, &columns, root)?.rows);
        }
        let mut bytes = 0;
        for file in &files {
            bytes += std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
        }
        let depth = Depth::within(bytes, self.whole);
        let mut hash = ContentHash::default();
        hash.field(files.len().to_le_bytes());
        self.read(&files, depth)?.iter().for_each(|content| hash.field(content));
        if depth == Depth::Parts {
            // What rows say, all of it: an edit may be between the parts.
            for row in &rows {
                hash.field(RowIdentity::of_row(row).sha256);
                hash.field(row.split().unwrap_or_default());
            }
        }
        // Packed ones lie in the files above.
        let on_their_own: Vec<&Row> =
            rows.iter().filter(|row| matches!(row.image().images(), [ImageSource::File(_), ..])).collect();
        let images = ImageFiles::of(&on_their_own);
        let depth = Depth::within(bytes + images.bytes(), self.whole);
        images.contents(depth, &|| false).iter().flatten().for_each(|content| hash.field(content));
        let digest = hash.hex();
        self.named.insert(key, digest.clone());
        Ok(digest)
    }

    /// Of each file, at the same time as others.
    fn read(&mut self, files: &[PathBuf], depth: Depth) -> Result<Vec<[u8; 32]>> {
        let content = |file: &PathBuf| -> Result<[u8; 32]> {
            match self.files.get(&(file.clone(), depth)) {
                Some(known) => Ok(*known),
                None => of_file(file, depth).with_context(|| file.display().to_string()),
            }
        };
        let contents = files.par_iter().map(content).collect::<Result<Vec<_>>>()?;
        self.files.extend(files.iter().map(|file| (file.clone(), depth)).zip(contents.iter().copied()));
        Ok(contents)
    }

    /// Of a folder's model, or the commit of a repository of the hub.
    fn of_model(&mut self, name: &str) -> Result<String> {
        match Source::parse(name)? {
            Source::Folder(folder) => {
                let key = format!("{}\0model", folder.display());
                if let Some(known) = self.named.get(&key) {
                    return Ok(known.clone());
                }
                let digest = model_digest(&folder)?;
                self.named.insert(key, digest.clone());
                Ok(digest)
            }
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

    #[test]
    fn how_much_is_read_goes_by_all_files_and_rows_count_in_any_case() {
        let dir = tempfile::tempdir().unwrap();
        let shard = |number: u32, last: &str| {
            let row = |i| format!("a.png,report {i} {}\n", if i == 600 { last } else { "x" });
            let rows: String = (0..2000).map(row).collect();
            std::fs::write(dir.path().join(format!("shard-{number}.csv")), format!("image,report\n{rows}")).unwrap();
        };
        std::fs::write(dir.path().join("a.png"), "any").unwrap();
        shard(0, "x");
        shard(1, "x");
        let source = dir.path().join("shard-*.csv");
        let written = dir.path().join("config.toml");
        let text = "model.init = \"random\"\n[data]\ntrain = \"shard-*.csv\"\n";
        std::fs::write(&written, text).unwrap();
        let config = crate::config::load(&written, &[]).unwrap();
        let of = |whole: u64| {
            let mut digests = Digests { whole, ..Digests::default() };
            let digest = digests.of_sources(&[&source], &config).unwrap();
            let depths: Vec<Depth> = digests.files.keys().map(|(_, depth)| *depth).collect();
            (digest, depths)
        };
        let most = std::fs::metadata(dir.path().join("shard-0.csv")).unwrap().len() + 1;
        let before = [of(WHOLE), of(most)];
        assert_eq!(before.clone().map(|(_, depths)| depths), [[Depth::Whole; 2], [Depth::Parts; 2]]);
        shard(1, "y");
        let parts = |n: u32| of_file(&dir.path().join(format!("shard-{n}.csv")), Depth::Parts).unwrap();
        assert_eq!(parts(0), parts(1), "the edit is between the parts");
        assert!(of(WHOLE).0 != before[0].0 && of(most).0 != before[1].0);
    }
}
