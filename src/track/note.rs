//! Lines to tell a person once.

/// What kind of line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// An automatic choice with its reason.
    Choice,
    /// Something that may spoil a run.
    Warning,
}

/// A line with its level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How much it matters.
    pub level: Level,
    /// The line.
    pub text: String,
}

impl Note {
    /// An automatic choice with its reason.
    pub fn choice(text: impl Into<String>) -> Self {
        Self { level: Level::Choice, text: text.into() }
    }

    /// Something that may spoil a run.
    pub fn warning(text: impl Into<String>) -> Self {
        Self { level: Level::Warning, text: text.into() }
    }

    /// Tells it on stderr, outside of any run.
    pub fn log(&self) {
        match self.level {
            Level::Choice => tracing::info!("{}", self.text),
            Level::Warning => tracing::warn!("{}", self.text),
        }
    }
}
