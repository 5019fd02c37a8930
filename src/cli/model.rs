//! `reportclip model`.

use anyhow::Result;

use super::output;
use crate::hub::{ModelFiles, Source};
use crate::model::checkpoint::LoadOptions;

/// Fetch models.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Fetch a model into the cache, so that it can be used offline
    ///
    /// Example: reportclip model download openai/clip-vit-base-patch32
    Download {
        /// Hub id, org/name or org/name@revision
        model: String,
    },
}

pub(super) fn run(command: &Command) -> Result<()> {
    let Command::Download { model } = command;
    let files = ModelFiles::open(&Source::parse(model)?)?;
    // Opening it fetches all that training needs, and shows now rather than later that it is usable.
    let (loaded, _) = crate::train::open_pretrained(&files, &LoadOptions::default(), None, &candle_core::Device::Cpu)?;
    let (weights, _) = loaded.params.count();
    let commit = files.commit().map_or(String::new(), |c| format!(", commit {c}"));
    output::print(&format!("{}: {weights} weights, ready for offline use{commit}", files.source()))
}
