//! `reportclip sweep`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{output, usage};
use crate::error::Interrupted;
use crate::sweep::{self, Member, Request};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip sweep configs/demo.toml --grid loss.label_smoothing=0,0.05,0.1,0.2 --seeds 3
  reportclip sweep my.toml --grid optim.lr=1e-6..1e-3 --random 20 --halving 3
  reportclip sweep my.toml --grid freeze.image=none,6,all --prompts chexpert.toml --jobs 2 --out runs/freeze

Run the same command again to go on where it stopped: members that are done are skipped, those that were stopped are
resumed, those that failed are tried again. Members that were made from another config, data or model are not taken for
these: the command refuses and says what changed. Other prompts or another split only judge them anew.")]
pub(super) struct Args {
    /// Config file (TOML) that all members share
    config: PathBuf,
    /// A key with the values to try, key=v1,v2,… (several: every combination), or with --random also key=low..high
    #[arg(long, value_name = "KEY=VALUES", required = true)]
    grid: Vec<String>,
    /// A combination beside those of the grid, for example 'loss.kind=multi_positive; loss.label_smoothing=0'
    #[arg(long, value_name = "KEY=VALUE; …")]
    also: Vec<String>,
    /// Change a key of the config for all members
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seeds of each combination, counted up from the config's
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Try so many random combinations instead of all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    random: Option<u32>,
    /// Successive halving: train all for a while, go on with the best 1/N, and so on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=16))]
    halving: Option<u32>,
    /// Members at a time; they share the machine's threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    /// Prompt file: members are also judged by zero-shot classification
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Split that members are judged on; default test where the first manifest has one, else val, else all rows
    #[arg(long)]
    split: Option<String>,
    /// Also the loss on the training pairs, and how much lower it is there than on those that members are judged on
    #[arg(long)]
    over_fitting: bool,
    /// Folder of the sweep; default runs/<config name>-sweep
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print and draw these figures alone, by the names that --json has; sweep.md has all
    #[arg(long, value_delimiter = ',', value_name = "NAME", conflicts_with = "json")]
    figures: Vec<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    sweep::check_shown(&args.figures).map_err(|e| usage::wrong(&e))?;
    let finished = sweep::run(&Request {
        config: args.config.clone(),
        overrides: args.set.clone(),
        grid: args.grid.clone(),
        also: args.also.clone(),
        seeds: args.seeds,
        random: args.random.map(|n| n as usize),
        halving: args.halving.map(|n| n as usize),
        jobs: args.jobs as usize,
        prompts: args.prompts.clone(),
        split: args.split.clone(),
        over_fitting: args.over_fitting,
        figures: args.figures.clone(),
        folder: args.out.clone(),
    })?;
    if args.json {
        let members: Vec<_> = finished.members.iter().map(Member::record).collect();
        output::print_json(
            &json!({"sweep": finished.folder.display().to_string(), "members": members, "table": finished.table,
                "differences": finished.differences}),
        )?;
    } else {
        output::print(&sweep::markdown(&finished.table, &args.figures))?;
        if !finished.differences.is_empty() {
            output::print(&sweep::differences_markdown(&finished.differences, &args.figures))?;
        }
        output::print(&format!("sweep: {}", finished.folder.display()))?;
    }
    if finished.stopped {
        return Err(Interrupted("stopped, as asked; the same command goes on".into()).into());
    }
    let (failed, all) = (finished.failed(), finished.members.len());
    ensure!(failed == 0, "{failed} of {all} members failed; the same command tries them again");
    Ok(())
}
