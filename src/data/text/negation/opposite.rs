//! What an opposite is.

use crate::words::words;

words!(
    /// What is turned round.
    OppositeKind {
        /// What is denied is affirmed, or the other way round.
        Negation = "negation",
        /// Left becomes right, or the other way round.
        Laterality = "laterality",
        /// Small becomes large, or the other way round.
        Size = "size",
    }
);

impl OppositeKind {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Negation, Self::Laterality, Self::Size];
}

/// A sentence that says the opposite of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opposite {
    /// What of it.
    pub kind: OppositeKind,
    /// Whether the sentence that is turned round denies something: then this one affirms it.
    pub of_denial: bool,
    /// The whole sentence.
    pub text: String,
}
