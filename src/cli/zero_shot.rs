//! `reportclip zero-shot`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::eval::{DataArgs, OpenModel, policy_of};
use super::{output, table};
use crate::data::{Blank, Columns, LabelPolicy, Manifest, Prompts, Row, Uncertain};
use crate::eval::{Scores, ZeroShotOptions, score};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip zero-shot --model runs/demo/model --data data/phantom/manifest.csv --split test --prompts prompts/phantom.toml
  reportclip zero-shot --model openai/clip-vit-base-patch32 --data pairs.csv --prompts chexpert.toml --subgroup sex,view
  reportclip zero-shot --model runs/b/model --compare runs/a/model --data pairs.csv --prompts p.toml --json

A prompt file names each class with the sentences that stand for it, in TOML or JSON, in any language:
  pneumonia = [\"Findings suggesting pneumonia.\", \"Pneumonia.\"]
or, where an image may have several, with sentences for having it and for not having it:
  Edema = { positive = [\"Pulmonary edema.\"], negative = [\"No pulmonary edema.\"] }")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    #[command(flatten)]
    data: DataArgs,
    /// Prompt file
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Split that temperature and thresholds are fitted on; default: val where the manifest has one and --split is
    /// another, else each half of the patients on the other half
    #[arg(long)]
    fit_split: Option<String>,
    /// Columns whose values get figures of their own
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    subgroup: Vec<String>,
    /// Another model to compare with, on the same images
    #[arg(long, value_name = "DIR|HUB_ID")]
    compare: Option<String>,
    /// What -1 in a finding's column counts as
    #[arg(long, default_value = "ignore", value_parser = ["ignore", "positive", "negative"])]
    uncertain: String,
    /// What nothing in a finding's column counts as
    #[arg(long, default_value = "negative", value_parser = ["negative", "ignore"])]
    blank: String,
    /// Images at once; does not change the figures
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Bootstrap resamples for 95 % intervals; 0 = none
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    bootstrap: u32,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let prompts = Prompts::open(&args.prompts)?;
    let (rows, fit) = splits(args, &prompts)?;
    let options =
        ZeroShotOptions { bootstrap: args.bootstrap as usize, seed: args.seed, subgroups: args.subgroup.clone() };
    let fit_name = fit.as_ref().map(|(_, name)| format!("split {name}"));
    let fit_rows = fit.map(|(rows, _)| rows);
    let judge = |model: &str| -> Result<(Scores, crate::eval::ZeroShotReport)> {
        let open = OpenModel::open(model, &args.device)?;
        let mut scores = scored(args, &open, &prompts, &rows)?;
        let fitted = fit_rows.as_ref().map(|rows| scored(args, &open, &prompts, rows)).transpose()?;
        let report = scores.report(fitted.as_ref().zip(fit_name.as_deref()), &options)?;
        Ok((scores, report))
    };
    let (scores, report) = judge(&args.model)?;
    let difference = match &args.compare {
        Some(other) => Some(scores.difference(&judge(other)?.0, &options)?),
        None => None,
    };
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        if let Some(difference) = &difference {
            value["difference"] = json!(difference);
        }
        return output::print_json(&value);
    }
    output::print(&table::zero_shot(&report))?;
    match difference {
        Some(difference) => {
            output::print("\nthis model minus the other, paired on the same images [95 % interval]")?;
            output::print(&table::figures(&difference))
        }
        None => Ok(()),
    }
}

fn scored(args: &Args, open: &OpenModel, prompts: &Prompts, rows: &[Row]) -> Result<Scores> {
    let uncertain = Uncertain::find(&args.uncertain).context("--uncertain")?;
    let blank = Blank::find(&args.blank).context("--blank")?;
    let (labels, unknown) = prompts.labels(rows, LabelPolicy { uncertain, blank })?;
    if !unknown.is_empty() {
        let list: Vec<String> = unknown.iter().take(5).map(|(label, n)| format!("{label:?} ({n})")).collect();
        tracing::warn!(
            "{} labels are no class of the prompt file and do not count: {}",
            unknown.len(),
            list.join(", ")
        );
    }
    score(&open.encoder(args.batch_size as usize), rows, prompts, &labels, args.subgroup.len())
}

/// Rows of a split with its name.
type Named = (Vec<Row>, String);

/// The rows to judge on, and those to fit on with the name of their split.
fn splits(args: &Args, prompts: &Prompts) -> Result<(Vec<Row>, Option<Named>)> {
    let mut extra = if prompts.multi_label { prompts.names() } else { Vec::new() };
    extra.extend(args.subgroup.iter().cloned());
    let columns = Columns { policy: policy_of(&args.model)?, extra, ..args.data.columns.columns() };
    let manifest = args.data.manifest(&columns)?;
    let known: Vec<String> = manifest.splits().iter().map(ToString::to_string).collect();
    let fit = match &args.fit_split {
        Some(name) => {
            ensure!(known.contains(name), "--fit-split {name}: the splits are {}", known.join(", "));
            ensure!(args.data.split.is_some(), "--fit-split {name}: needs --split, which must be another");
            Some(name.clone())
        }
        None => known.iter().find(|s| *s == "val").cloned().filter(|_| args.data.split.is_some()),
    };
    let fit = fit.filter(|name| Some(name) != args.data.split.as_ref());
    let of = |manifest: Manifest, split: &str| manifest.only_split(split).rows;
    let fit = fit.map(|name| (of(manifest.clone(), &name), name));
    Ok((args.data.only_split(manifest)?, fit))
}
