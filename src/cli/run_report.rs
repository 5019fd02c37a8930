//! `reportclip run-report`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{output, usage};
use crate::fs::may_write_beside;
use crate::run_report;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip run-report runs/demo
  reportclip run-report runs/a runs/b --out compare.html
  reportclip run-report runs/demo-sweep

A file zero-shot.json in a run folder, as `zero-shot --json` prints it, is drawn too:
  reportclip zero-shot --model runs/demo/model --data m.csv --prompts p.toml --json > runs/demo/zero-shot.json")]
pub(super) struct Args {
    /// Run folders, or folders of sweeps
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page; default report.html in the first folder
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write over an existing file; report.html in the first folder is always drawn anew
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let folders: Vec<&Path> = args.runs.iter().map(PathBuf::as_path).collect();
    if let Some(none) = folders.iter().find(|folder| !folder.is_dir()) {
        usage::ensure(false, || format!("{}: there is no such folder; name those of runs or sweeps", none.display()))?;
    }
    let out = args.out.clone().unwrap_or_else(|| args.runs[0].join("report.html"));
    may_write_beside(&out, args.force || args.out.is_none(), folders.iter().copied())?;
    run_report::page(&folders)?.write(&out)?;
    output::print(&format!("page: {}", out.display()))
}
