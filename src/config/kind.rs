//! What the value of a key may be, and how that is said.

use crate::data::{VolumePolicy, Window};

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// true or false
    Bool,
    /// Whole number within bounds, both allowed.
    Int(i64, i64),
    /// Number within bounds, both allowed.
    Float(f64, f64),
    /// Any text.
    Text,
    /// File or folder. Relative ones start at the config file's folder, or at the working directory in `--set`.
    Path,
    /// Where rows come from: a path, a pattern, a data set of the hub, or a list of them.
    Sources,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of these words.
    ListOf(&'static [&'static str]),
    /// A list of numbers within bounds, the lower one not allowed.
    Floats(f64, f64),
    /// A length of training: steps, or "N samples", "N epochs", "N%".
    Span,
    /// "none", "all", or a number of blocks.
    Freeze,
    /// A number from 0 to 1, or a way from one to another.
    Smoothing,
    /// "none", "balanced", or a list of numbers.
    ClassWeights,
    /// Three lengths in millimetres.
    Spacing,
    /// Which values of a volume become black and white.
    Window,
}

impl Kind {
    /// What is allowed, in words.
    pub fn allowed(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Int(min, i64::MAX) => format!("a whole number of at least {min}"),
            Self::Int(min, max) => format!("a whole number from {min} to {max}"),
            Self::Float(min, max) if max.is_infinite() => format!("a number of at least {min}"),
            Self::Float(min, max) => format!("a number from {min} to {max}"),
            Self::Text => "text in quotes".into(),
            Self::Path => "a path in quotes".into(),
            Self::Sources => "a path in quotes, or a list of them".into(),
            Self::ListOf(words) => {
                format!("a list of {}", words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", "))
            }
            Self::Floats(min, max) => format!("a list of numbers above {min} and up to {max}"),
            Self::OneOf(words) => words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", "),
            Self::Span => "a number of steps, or \"N samples\", \"N epochs\", \"N%\"".into(),
            Self::Smoothing => "a number from 0 to 1, or { from, to, over } with over a length of training".into(),
            Self::ClassWeights => "\"none\", \"balanced\" or a list of numbers above 0".into(),
            Self::Spacing => VolumePolicy::SPACING_ALLOWED.into(),
            Self::Window => Window::ALLOWED.into(),
            Self::Freeze => "\"none\", \"all\" or a number of blocks".into(),
        }
    }
}
