//! `reportclip zero-shot`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::manifest_args::JudgeArgs;
use super::{output, sets_table, table};
use crate::data::{Blank, LabelPolicy, Prompts, Uncertain};
use crate::eval::{Abstention, Classification, Classified, Head, ZeroShotOptions, ZeroShotRequest};
use crate::hub::Source;
use crate::session::policy_of;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip zero-shot --model runs/demo/model --data data/phantom/manifest.csv --split test \\
    --prompts prompts/phantom.toml
  reportclip zero-shot --model openai/clip-vit-base-patch32 --data pairs.csv --prompts chexpert.toml --subgroup sex,view
  reportclip zero-shot --model runs/demo/model --data m.csv --split test --prompts p.toml --keep-abstention 0.9
  reportclip zero-shot --model runs/demo/model --data new.csv --prompts p.toml --abstain --conformal 0.1
  reportclip zero-shot --model runs/demo/model --data m.csv --prompts p.toml \\
    --head runs/demo/model/reportclip_head.safetensors
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
    /// Classify by this head, which `adapt --save` made, in place of the prompts (of --compare's model by the prompts)
    #[arg(long, value_name = "FILE.safetensors")]
    head: Option<PathBuf>,
    /// Split that temperature and thresholds are fitted on; default: val where the manifest has one and --split is
    /// another, else each half of the patients on the other half
    #[arg(long)]
    fit_split: Option<String>,
    /// Columns whose values get figures of their own: groups, none that name patients
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    subgroup: Vec<String>,
    /// Also sets of classes that leave out what is so in this share of patients to come at most (0.1: 9 of 10 hold it)
    #[arg(long, value_name = "ALPHA", value_parser = sets_table::alpha)]
    conformal: Option<f64>,
    /// Choose from which sureness on to answer, so that this share of the answers is right, on the split that is
    /// fitted on (without one, on the rows that are judged), and keep it in the model's folder
    #[arg(long, value_name = "ACCURACY", value_parser = sets_table::alpha)]
    keep_abstention: Option<f64>,
    /// Answer "unsure" below the sureness that the model's folder keeps
    #[arg(long, conflicts_with = "keep_abstention")]
    abstain: bool,
    /// Also figures as sums by patient, which a sweep compares settings by
    #[arg(long, hide = true, requires = "json")]
    by_patient: bool,
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
            conformal: args.conformal,
        },
    };
    let prompts = Prompts::open(&args.prompts)?;
    let on = Classification::on(&judge.data.source(), &policy_of(&judge.model)?, prompts, &request)?;
    let kept = args.abstain.then(|| Abstention::read(&model_folder(&judge.model)?)).transpose()?;
    if args.keep_abstention.is_some() {
        Abstention::may_keep(&model_folder(&judge.model)?).context("--keep-abstention")?;
    }
    let head = args.head.as_ref().map(|path| Head::read(path)).transpose()?;
    if let Some(head) = &head {
        head.check(&judge.model, on.prompts())?;
    }
    let mut model = on.judge(&judge.open(&judge.model)?, head.as_ref())?;
    if let Some(rule) = kept {
        on.abstain(&mut model, &rule)?;
    }
    if let Some(accuracy) = args.keep_abstention {
        keep_abstention(&on, &mut model, &judge.model, accuracy)?;
    }
    let difference = match &judge.compare {
        Some(other) => Some(on.difference(&model, &on.judge(&judge.open(other)?, None)?)?),
        None => None,
    };
    if judge.json {
        let mut value = serde_json::to_value(&model.report)?;
        if let Some(difference) = &difference {
            value["difference"] = json!(difference);
        }
        if args.by_patient {
            value["by_patient"] = json!(on.by_patient(&model));
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

/// Where a model can keep something: a folder of one's own.
fn model_folder(model: &str) -> Result<PathBuf> {
    match Source::parse(model)? {
        Source::Folder(path) => Ok(path),
        Source::Hub { .. } => bail!("--model {model}: an abstention is kept in a model's folder, and this is none"),
    }
}

fn keep_abstention(on: &Classification, model: &mut Classified, name: &str, accuracy: f64) -> Result<()> {
    let folder = model_folder(name)?;
    let (rule, chosen_on) = on.choose_abstention(model, accuracy)?;
    rule.keep(&folder).context("--keep-abstention")?;
    match chosen_on {
        Some(split) => {
            tracing::info!("abstention chosen on {split} and kept with the model");
            on.abstain(model, &rule)
        }
        None => {
            tracing::warn!(
                "abstention chosen on the rows that are judged and kept with the model: of them {:.1} % are answered, \
                 and {:.1} % of the answers are right, which other patients will not show; --fit-split names others",
                100.0 * rule.coverage,
                100.0 * rule.accuracy
            );
            Ok(())
        }
    }
}
