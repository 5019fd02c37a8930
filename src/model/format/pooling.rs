//! Which state of a tower stands for the whole image or text.

/// A choice among a tower's states.
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

    /// The message for a pooling that `tower` does not have; `key` names the config's.
    pub fn refused(self, key: &str, tower: &str, allowed: &str) -> anyhow::Error {
        anyhow::anyhow!("{key} is {:?}; allowed for {tower} are {allowed}", self.word())
    }
}
