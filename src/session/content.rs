//! What a model is made of, as something that was made with it knows it.

use anyhow::Result;

use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::model_digest;

/// What the model `name` is made of: a digest of its folder's files, or the commit of the hub; `None` for a repository
/// that was never fetched.
///
/// # Errors
/// Its files cannot be read.
pub fn model_content(name: &str) -> Result<Option<String>> {
    match Source::parse(name)? {
        Source::Folder(folder) => model_digest(&folder).map(Some),
        hub => Ok(ModelFiles::open(&hub)?.commit()),
    }
}
