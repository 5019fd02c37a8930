//! `reportclip man`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use clap_mangen::Man;

use super::output;
use crate::fs::replace_files;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip man --out ~/.local/share/man/man1
  man reportclip-train")]
pub(super) struct Args {
    /// Folder for the pages, made if it is not there; pages of an older version are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: &Args, program: Command) -> Result<()> {
    let mut program = program.disable_help_subcommand(true);
    // Gives each command its whole name.
    program.build();
    let pages = pages(&program)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("--out {}", args.out.display()))?;
    replace_files(&args.out, &pages)?;
    output::print(&format!("{}: {} pages, the first is reportclip.1", args.out.display(), pages.len()))
}

/// A page of `command` and one of each command below it, under the name that `man` knows it by.
fn pages(command: &Command) -> Result<Vec<(String, Vec<u8>)>> {
    let man = Man::new(command.clone()).source(concat!("reportclip ", env!("CARGO_PKG_VERSION"))).manual("reportclip");
    let mut page = Vec::new();
    man.render(&mut page)?;
    let mut all = vec![(man.get_filename(), page)];
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        all.append(&mut pages(inner)?);
    }
    Ok(all)
}
