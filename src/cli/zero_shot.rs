//! `reportclip zero-shot`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::manifest_args::JudgeArgs;
use super::{output, table};
use crate::data::{Blank, LabelPolicy, Prompts, Uncertain};
use crate::eval::{Classification, ZeroShotOptions, ZeroShotRequest};
use crate::session::policy_of;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip zero-shot --model runs/demo/model --data data/phantom/manifest.csv --split test \\
    --prompts prompts/phantom.toml
  reportclip zero-shot --model openai/clip-vit-base-patch32 --data pairs.csv --prompts chexpert.toml --subgroup sex,view
  reportclip zero-shot --model runs/b/model --compare runs/a/model --data pairs.csv --prompts p.toml --json

A prompt file names each class with the sentences that stand for it, in TOML or JSON, in any language:
  pneumonia = [\"Findings suggesting pneumonia.\", \"Pneumonia.\"]
or, where an image may have several, with sentences for having it and for not having it:
  Edema = { positive = [\"Pulmonary edema.\"], negative = [\"No pulmonary edema.\"] }")]
pub(super) struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
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
    /// What -1 in a finding's column counts as
    #[arg(long, default_value = "ignore", value_parser = ["ignore", "positive", "negative"])]
    uncertain: String,
    /// What nothing in a finding's column counts as
    #[arg(long, default_value = "negative", value_parser = ["negative", "ignore"])]
    blank: String,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let judge = &args.judge;
    let request = ZeroShotRequest {
        fit_split: args.fit_split.clone(),
        labels: LabelPolicy {
            uncertain: Uncertain::find(&args.uncertain).context("--uncertain")?,
            blank: Blank::find(&args.blank).context("--blank")?,
        },
        batch_size: judge.batch_size as usize,
        options: ZeroShotOptions {
            bootstrap: judge.bootstrap as usize,
            seed: judge.seed,
            subgroups: args.subgroup.clone(),
        },
    };
    let prompts = Prompts::open(&args.prompts)?;
    let on = Classification::on(&judge.data.source(), &policy_of(&judge.model)?, prompts, &request)?;
    let of = |model: &str| on.judge(&judge.open(model)?);
    let model = of(&judge.model)?;
    let difference = match &judge.compare {
        Some(other) => Some(on.difference(&model, &of(other)?)?),
        None => None,
    };
    if judge.json {
        let mut value = serde_json::to_value(&model.report)?;
        if let Some(difference) = &difference {
            value["difference"] = json!(difference);
        }
        return output::print_json(&value);
    }
    output::print(&table::zero_shot(&model.report))?;
    match difference {
        Some(difference) => {
            output::print("\nthis model minus the other, paired on the same images [95 % interval]")?;
            output::print(&table::figures(&difference))
        }
        None => Ok(()),
    }
}
