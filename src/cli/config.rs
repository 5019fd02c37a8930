//! `reportclip config`.

use std::path::PathBuf;

use anyhow::Result;

use super::output;
use crate::config::{self, KEYS};

/// Show and check config files.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// All keys with their defaults
    List {
        /// As a Markdown table
        #[arg(long)]
        markdown: bool,
    },
    /// A config with every default filled in
    Show(FileArgs),
    /// Check a config; exit code 2 and all problems if there are any
    Validate(FileArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct FileArgs {
    /// Config file
    config: PathBuf,
    /// Change a key
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(super) fn run(command: &Command) -> Result<()> {
    match command {
        Command::List { markdown: true } => output::print(&config::keys_as_markdown()),
        Command::List { markdown: false } => {
            for key in KEYS {
                let default = if key.default.is_empty() { "-" } else { key.default };
                output::print(&format!("{:<28} {:<14} {}", key.name, default, key.help))?;
            }
            Ok(())
        }
        Command::Show(args) => output::print(config::load(&args.config, &args.set)?.to_toml().trim_end()),
        Command::Validate(args) => {
            config::load(&args.config, &args.set)?;
            output::print(&format!("{}: fine", args.config.display()))
        }
    }
}
