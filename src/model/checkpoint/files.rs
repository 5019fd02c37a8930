//! A model's files before their tensors are read, and what they hold compared with what the model declares.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::layout::{Family, SavedFile};
use super::source::{Folder, WeightFiles};
use crate::error::ProblemList;
use crate::model::format::Unused;
use crate::model::format::rename::{How, change_in_words, foreign_shape, matches};
use crate::model::{ClipConfig, ParamSpec, Part};

/// A tensor of the file that is not part of the model, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Its name in the file.
    pub name: String,
    /// Why it is not needed.
    pub reason: String,
}

/// Which of a model's weights is which tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Our name.
    pub ours: String,
    /// The file's name.
    pub theirs: String,
    /// The file's shape.
    pub shape: Vec<usize>,
    /// What is done to it, in a word; empty where it is taken as it is.
    pub change: &'static str,
}

/// A model whose configs are read and whose weights are not.
pub(super) struct UnloadedModel<'a> {
    pub config: ClipConfig,
    pub family: Family,
    pub files: Vec<UnloadedFile<'a>>,
    /// Where no file holds the heads: the config that a file with them will have.
    pub fresh_heads: Option<Value>,
    /// Where no file holds the bag pooling that is asked for: how it will be written.
    pub fresh_bag_pooling: Option<SavedFile>,
    /// As in [`Layout`].
    pub beside: Vec<(String, Value)>,
}

pub(super) struct UnloadedFile<'a> {
    /// How it is written back.
    pub saved: SavedFile,
    pub folder: Folder<'a>,
    pub weights: WeightFiles,
    /// What stands before all names in the file, and is left out when the part is written.
    pub prefix: &'static str,
    /// Tensors that are not needed, by pattern behind a prefix.
    unused: Vec<(String, Unused)>,
    /// Tensors that begin so belong to something else, with the reason.
    foreign: &'static [(&'static str, &'static str)],
}

impl<'a> UnloadedFile<'a> {
    /// `saved` in `folder`, whose tensors are `weights`.
    pub fn new(folder: Folder<'a>, saved: SavedFile, weights: WeightFiles, unused: Vec<(String, Unused)>) -> Self {
        Self { saved, folder, weights, prefix: "", unused, foreign: &[] }
    }

    /// The same with `prefix` before all names of its tower; those that begin as `foreign` belong to something else.
    pub fn behind(self, prefix: &'static str, foreign: &'static [(&'static str, &'static str)]) -> Self {
        Self { prefix, foreign, ..self }
    }

    /// The file's name for our tensor.
    fn stored(&self, ours: &str) -> Option<(String, How)> {
        self.saved.renames.foreign(ours).map(|(name, how)| (format!("{}{name}", self.prefix), how))
    }

    /// Why a tensor of the file is not needed, and whether it is carried along.
    fn unused(&self, name: &str) -> Option<(String, bool)> {
        let other = self.foreign.iter().find(|(start, _)| name.starts_with(start));
        if let Some((_, reason)) = other {
            return Some(((*reason).to_string(), false));
        }
        let Some(inner) = name.strip_prefix(self.prefix) else {
            return Some(("stands beside the tower".to_string(), false));
        };
        if name.ends_with(".num_batches_tracked") {
            return Some(("a counter of training, not a weight".into(), true));
        }
        let found = self.unused.iter().find(|(prefix, unused)| {
            inner.strip_prefix(prefix.as_str()).is_some_and(|inner| matches(unused.pattern, inner))
        });
        found.map(|(_, unused)| (unused.reason.to_string(), unused.carried))
    }
}

/// What the files hold, compared with what the model wants.
pub(super) struct Checked {
    pub mapped: Vec<Mapped>,
    pub ignored: Vec<Ignored>,
    pub fresh: Vec<String>,
    /// File and name of tensors to carry along.
    pub carried: Vec<(usize, String)>,
    pub problems: ProblemList,
}

impl UnloadedModel<'_> {
    /// The file that holds our tensor, with the file's name for it.
    pub fn home(&self, ours: &str) -> Option<(usize, String, How)> {
        self.files.iter().enumerate().find_map(|(i, part)| part.stored(ours).map(|(name, how)| (i, name, how)))
    }

    /// All differences between what the files hold and what the model declares.
    pub fn check(&self, specs: &[ParamSpec]) -> Checked {
        let shapes: Vec<BTreeMap<String, Vec<usize>>> = self.files.iter().map(|p| p.weights.shapes()).collect();
        let integers: Vec<BTreeMap<String, String>> = self.files.iter().map(|p| p.weights.integers()).collect();
        let mut used = BTreeSet::new();
        let mut checked = Checked {
            mapped: Vec::new(),
            ignored: Vec::new(),
            fresh: Vec::new(),
            carried: Vec::new(),
            problems: ProblemList::default(),
        };
        for spec in specs {
            let Some((part, theirs, how)) = self.home(&spec.name) else {
                match spec.part {
                    Part::Heads => checked.fresh.push(spec.name.clone()),
                    _ => checked.problems.push(format!("weight {} has no name in this layout", spec.name)),
                }
                continue;
            };
            let wanted = foreign_shape(&spec.shape, how);
            match shapes[part].get(&theirs) {
                None => checked.problems.push(format!("tensor {theirs} {wanted:?} is missing")),
                Some(shape) if *shape != wanted => checked.problems.push(format!(
                    "tensor {theirs} has shape {shape:?}, {} asks for {wanted:?}",
                    self.files[part].saved.config_file
                )),
                Some(_) if integers[part].contains_key(&theirs) => checked.problems.push(format!(
                    "tensor {theirs} holds numbers of type {}; weights are floating-point numbers",
                    integers[part][&theirs]
                )),
                Some(shape) => checked.mapped.push(Mapped {
                    ours: spec.name.clone(),
                    theirs: theirs.clone(),
                    shape: shape.clone(),
                    change: change_in_words(how),
                }),
            }
            used.insert((part, theirs));
        }
        for (i, (part, shapes)) in self.files.iter().zip(shapes).enumerate() {
            for name in shapes.into_keys().filter(|name| !used.contains(&(i, name.clone()))) {
                match part.unused(&name) {
                    Some((reason, carried)) => {
                        if carried {
                            checked.carried.push((i, name.clone()));
                        }
                        checked.ignored.push(Ignored { name, reason });
                    }
                    None => checked.problems.push(format!(
                        "tensor {name} is in the file, but a model of this {} has no such weight",
                        part.saved.config_file
                    )),
                }
            }
        }
        checked
    }

    /// Where it all comes from, for messages.
    pub fn place(&self) -> String {
        self.files.iter().map(|p| p.folder.to_string()).collect::<Vec<_>>().join(" and ")
    }
}
