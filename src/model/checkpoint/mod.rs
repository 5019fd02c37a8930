//! Models on disk: which published layouts there are, how each is read strictly, and how it is written back.
//!
//! The only module that knows other programs' names of tensors and config fields. A new layout of a tower is a row in
//! `vision.rs` or `text.rs`; a new layout of a whole model is a file beside `open_clip.rs`.

mod family;
mod json;
mod layout;
mod load;
mod open_clip;
mod open_clip_names;
mod pair;
mod rename;
mod source;
mod text;
mod vision;
mod vision_names;

pub use layout::{Family, Layout};
pub use load::{Inspection, LoadOptions, Loaded, inspect, load, load_pair, random};
pub use pair::{PairOptions, is_tower, open_tower};
pub use source::save_safetensors;

use rename::How;

/// Which state of a tower stands for the whole image or text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The first token's.
    Cls,
    /// The mean of all patches or tokens.
    Mean,
    /// The last token's.
    Eos,
    /// What transformers calls `pooler_output`.
    Pooler,
}

impl Pooling {
    /// As in the config.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Mean => "mean",
            Self::Eos => "eos",
            Self::Pooler => "pooler",
        }
    }

    /// The pooling of this name.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Cls, Self::Mean, Self::Eos, Self::Pooler].into_iter().find(|p| p.word() == word)
    }
}

/// Tensors that files carry and the model does not need: pattern, reason, whether they are written back all the same, so
/// that other programs find the tower whole.
type Unused = (&'static str, &'static str, bool);

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

fn change_in_words(how: How) -> &'static str {
    match how {
        How::Same => "",
        How::Leading(_) => "reshaped",
        How::Transposed => "transposed",
        How::PatchRows => "patch rows to a kernel",
        How::Part(..) => "part of it",
    }
}
