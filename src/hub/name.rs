//! Where a model comes from, in its errors too.

use std::fmt;
use std::path::PathBuf;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A local folder.
    Folder(PathBuf),
    /// A repository on the Hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// A branch, tag or commit; `main` when none was given.
        revision: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Hub { repo, revision } => write!(f, "{repo}@{revision}"),
        }
    }
}
