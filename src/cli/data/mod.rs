//! `reportclip data`.

mod lint;
mod prepare;
mod split;
mod synth;

use anyhow::Result;

/// Make, check and split data
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Draw phantom chest radiographs with reports, to try the program without data
    Synth(synth::Args),
    /// From a data set's official layout to a manifest
    Prepare(prepare::Args),
    /// Give every row of a manifest a split; patients stay whole unless --by says otherwise
    Split(split::Args),
    /// Look for what is wrong with a manifest, its images and its reports
    Lint(lint::Args),
}

pub(super) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Synth(args) => synth::run(args),
        Command::Prepare(args) => prepare::run(args),
        Command::Split(args) => split::run(args),
        Command::Lint(args) => lint::run(args),
    }
}
