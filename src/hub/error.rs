//! What can go wrong between a model's name and its files. Every text is one line: which file of which model,
//! what happened, what to do. No text holds a token or a signed address.

use std::fmt;
use std::path::PathBuf;

use super::name::Source;

/// The file that an error is about; reads "config.json of org/name@main".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The file's name inside the model.
    pub file: String,
    /// The model.
    pub source: Source,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.file, self.source)
    }
}

/// Why a model's file could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a folder nor a name on the Hub: the text, and what is wrong with it.
    #[error(
        "model {0:?}: {1}; allowed: a folder (./x, ../x, /x, or one that exists), or org/name or org/name@revision \
         on the Hub"
    )]
    BadSource(String, String),

    /// A file name that would leave the model: the name, the model, and what is wrong.
    #[error("file name {0:?} in {1}: {2}; allowed: a relative name inside the model, like sub/x.json")]
    BadName(String, Box<Source>, &'static str),

    /// The model's folder cannot be listed: the folder, and why.
    #[error("model folder {path}: {1}; check the path", path = .0.display())]
    BadFolder(PathBuf, String),

    /// The model's folder has no such file.
    #[error("{0}: the folder has no such file; check that the model is complete")]
    NoFile(Box<Wanted>),

    /// Offline and not in the cache: the file, and the repository's cache folder.
    #[error(
        "{0}: not in the cache ({path}) and HF_HUB_OFFLINE is set; unset it, or run `reportclip model download \
         {source}` on a machine with network and copy that folder",
        path = .1.display(), source = .0.source
    )]
    Offline(Box<Wanted>, PathBuf),

    /// The Hub has no such repository: the file, and the Hub.
    #[error(
        "{0}: {1} has no such repository and no such folder exists here; check the spelling (a folder may be \
         written ./x)"
    )]
    RepoNotFound(Box<Wanted>, String),

    /// The repository has no such branch, tag or commit.
    #[error("{0}: the repository has no such revision; check what follows the \"@\", or leave it away for main")]
    RevisionNotFound(Box<Wanted>),

    /// The repository has no such file at this revision.
    #[error("{0}: the repository has no such file at this revision; check that it holds a model of this kind")]
    EntryNotFound(Box<Wanted>),

    /// 404 without the Hub's reason: the file, and the Hub.
    #[error("{0}: {1} answers 404 without a reason; check the repository, the revision and HF_ENDPOINT")]
    NotFound(Box<Wanted>, String),

    /// The owner grants access by hand or after accepting terms: the file, and the repository's page.
    #[error("{0}: access to this repository must be granted; ask for it at {1}, then set HF_TOKEN to your token")]
    Gated(Box<Wanted>, String),

    /// 401 and no token was sent: private or missing, the Hub does not tell.
    #[error(
        "{0}: the repository does not exist or is private (401); check the spelling, or set HF_TOKEN to a token \
         that may read it"
    )]
    LoginNeeded(Box<Wanted>),

    /// 401 although a token was sent.
    #[error("{0}: the Hub refuses the token (401); renew it (HF_TOKEN or the token file), or check the spelling")]
    TokenRefused(Box<Wanted>),

    /// 403 for another reason than a gate.
    #[error("{0}: access refused (403); check what the token in HF_TOKEN may read")]
    Forbidden(Box<Wanted>),

    /// No answer at all: the file, the host, and why.
    #[error(
        "{0}: cannot reach {1} ({2}); check the network, the proxy and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use \
         the cache only"
    )]
    NoNetwork(Box<Wanted>, String, String),

    /// The server is busy or broken: the file, the host, and the HTTP status.
    #[error("{0}: {1} answers {2}, a fault on its side; try again in a few minutes")]
    Server(Box<Wanted>, String, u16),

    /// The connection broke: the file, bytes here, bytes in all if known, and why.
    #[error(
        "{0}: the connection broke after {1}{of} bytes ({3}); run again, it goes on from there",
        of = .2.map_or(String::new(), |total| format!(" of {total}"))
    )]
    Cut(Box<Wanted>, u64, Option<u64>, String),

    /// Fetched twice, and both times something else than the Hub names: the file, and the host.
    #[error(
        "{0}: {1} gives other content than the Hub names, twice; nothing was kept; check HF_ENDPOINT, and that no \
         proxy answers in its place"
    )]
    WrongContent(Box<Wanted>, String),

    /// A token that cannot be one: the repository. The token itself is never shown.
    #[error(
        "{0}: the token in HF_TOKEN or the token file holds a space, a line break or a character beyond ASCII; set it \
         anew, it looks like hf_ and letters"
    )]
    BadToken(String),

    /// The disk is full: the file, and the path that was written.
    #[error(
        "{0}: no space left for {path}; free some or point HF_HUB_CACHE to another disk, then run again",
        path = .1.display()
    )]
    DiskFull(Box<Wanted>, PathBuf),

    /// A local file cannot be read or written: the file, the path, and why.
    #[error("{0}: {path}: {2}; check the path and its permissions", path = .1.display())]
    Disk(Box<Wanted>, PathBuf, String),

    /// An answer that no Hub gives: the file, the host, and what is odd.
    #[error("{0}: {1} answers oddly ({2}); check HF_ENDPOINT, and that no proxy answers in its place")]
    Odd(Box<Wanted>, String, String),

    /// The HTTP client cannot be set up: the repository, and why.
    #[error("{0}: cannot set up the HTTP client ({1}); check the proxy settings")]
    Setup(String, String),
}
