//! `reportclip zero-shot`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::manifest_args::JudgeArgs;
use super::{output, predictions, sets_table, table, usage};
use crate::data::{Blank, LabelPolicy, Prompts, Uncertain};
use crate::eval::{
    Abstention, Classification, Classified, Figure, Head, Kept, KeptSets, KeptTemperature, ZeroShotOptions,
    ZeroShotReport, ZeroShotRequest,
};
use crate::hub::Source;
use crate::session::policy_of;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip zero-shot --model runs/demo/model --data data/phantom/manifest.csv --split test \\
    --prompts prompts/phantom.toml
  reportclip zero-shot --model openai/clip-vit-base-patch32 --data pairs.csv --prompts chexpert.toml --subgroup sex,view
  reportclip zero-shot --model runs/demo/model --data m.csv --split test --prompts p.toml \\
    --keep-abstention 0.9 --keep-conformal 0.1
  reportclip zero-shot --model runs/demo/model --data new.csv --prompts p.toml --abstain --sets --predictions new.jsonl
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
    /// Keep the temperature that makes probabilities true in the model's folder, for `serve` and --predictions: fitted
    /// on the split that is fitted on (without one, on the rows that are judged)
    #[arg(long)]
    keep_temperature: bool,
    /// Answer "unsure" below the sureness that the model's folder keeps
    #[arg(long, conflicts_with = "keep_abstention")]
    abstain: bool,
    /// Calibrate such sets on the split that is fitted on (without one, on the rows that are judged), and keep what is
    /// in them in the model's folder
    #[arg(long, value_name = "ALPHA", value_parser = sets_table::alpha, conflicts_with = "conformal")]
    keep_conformal: Option<f64>,
    /// Also sets of classes by what the model's folder keeps
    #[arg(long, conflicts_with_all = ["conformal", "keep_conformal"])]
    sets: bool,
    /// Write what the model says of each image, with or without a label: answer, its probability (by the temperature
    /// that the model's folder keeps, where it keeps one), set, by the line of the manifest. With this, --abstain,
    /// --sets or --conformal no row needs a label; figures are of those that have
    #[arg(long, value_name = "FILE.csv|FILE.jsonl")]
    predictions: Option<PathBuf>,
    /// Write over predictions that are there
    #[arg(long, requires = "predictions")]
    force: bool,
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
    if let Some(fit) = &args.fit_split {
        usage::ensure(judge.data.split.as_ref().is_some_and(|split| split != fit), || {
            format!("--fit-split {fit}: needs --split, which must be another split than is fitted on")
        })?;
    }
    let request = ZeroShotRequest {
        fit_split: args.fit_split.clone(),
        labels: LabelPolicy {
            uncertain: Uncertain::find(&args.uncertain).context("--uncertain")?,
            blank: Blank::find(&args.blank).context("--blank")?,
        },
        may_be_unlabelled: args.abstain || args.sets || args.conformal.is_some() || args.predictions.is_some(),
        batch_size: judge.batch_size as usize,
        options: ZeroShotOptions {
            bootstrap: judge.bootstrap as usize,
            seed: judge.seed,
            subgroups: args.subgroup.clone(),
            conformal: args.conformal,
        },
    };
    if let Some(path) = &args.predictions {
        predictions::check(path, args.force, &[&judge.data.data, &args.prompts])?;
    }
    let prompts = Prompts::open(&args.prompts).map_err(|e| usage::wrong(&e))?;
    // Better told now than after rows were read.
    let head = args.head.as_ref().map(|path| Head::read(path)).transpose()?;
    let on = Classification::on(&judge.source()?, &policy_of(&judge.model)?, prompts, &request)?;
    let folder = || model_folder(&judge.model);
    let kept = args.abstain.then(|| Abstention::read(&folder()?)).transpose()?;
    let kept_sets = args.sets.then(|| KeptSets::read(&folder()?)).transpose()?;
    if args.keep_abstention.is_some() {
        Abstention::may_keep(&folder()?).context("--keep-abstention")?;
    }
    if args.keep_conformal.is_some() {
        KeptSets::may_keep(&folder()?).context("--keep-conformal")?;
    }
    if args.keep_temperature {
        KeptTemperature::may_keep(&folder()?).context("--keep-temperature")?;
    }
    if let Some(head) = &head {
        head.check(&judge.model, on.prompts())?;
    }
    // Where predictions are told: what is damaged is told before the work.
    let source = Source::parse(&judge.model)?;
    let kept_in = source.folder().filter(|_| request.may_be_unlabelled && !args.keep_temperature);
    let mut temperature = kept_in.map(|folder| on.kept_temperature(folder, head.as_ref())).transpose()?.flatten();
    let mut model = on.judge(&judge.open(&judge.model)?, head.as_ref())?;
    if let Some(rule) = kept {
        on.abstain(&mut model, &rule)?;
    }
    if let Some(kept) = kept_sets {
        on.give_sets(&mut model, &kept)?;
    }
    if let Some(accuracy) = args.keep_abstention {
        keep_abstention(&on, &mut model, &judge.model, accuracy)?;
    }
    if let Some(alpha) = args.keep_conformal {
        keep_sets(&on, &mut model, &judge.model, alpha)?;
    }
    if args.keep_temperature {
        temperature = Some(keep_temperature(&on, &model, &judge.model).context("--keep-temperature")?);
    }
    if let Some(kept) = &temperature {
        on.calibrate(&mut model, kept);
    }
    let difference = match &judge.compare {
        Some(other) => Some(on.difference(&model, &on.judge(&judge.open(other)?, None)?)?),
        None => None,
    };
    if let Some(path) = &args.predictions {
        predictions::write(path, &on.said(&model)?)?;
        tracing::info!("predictions: {}; {}", path.display(), by(temperature.as_ref()));
    }
    match &model.report {
        Some(report) => print(args, &on, (&model, report), difference.as_deref()),
        None => print_unlabelled(args, &on, &model, temperature.as_ref()),
    }
}

/// By what probabilities are, in words.
fn by(temperature: Option<&KeptTemperature>) -> String {
    temperature.map_or("probabilities are the model's own".into(), |kept| {
        format!("probabilities by the kept temperature {:.3}, fitted on {}", kept.temperature, kept.fitted_on)
    })
}

fn print_unlabelled(
    args: &Args,
    on: &Classification,
    model: &Classified,
    temperature: Option<&KeptTemperature>,
) -> Result<()> {
    let said = on.said(model)?;
    if !args.judge.json {
        return output::print(&format!("{}\n{}", predictions::counted(&said), by(temperature)));
    }
    let (classes, temperature) = (on.prompts().names(), temperature.map(|kept| kept.temperature));
    output::print_json(&json!({"classes": classes, "images": 0, "temperature": temperature, "predictions": said}))
}

fn print(
    args: &Args,
    on: &Classification,
    (model, report): (&Classified, &ZeroShotReport),
    difference: Option<&[Figure]>,
) -> Result<()> {
    if args.judge.json {
        let mut value = serde_json::to_value(report)?;
        if let Some(difference) = difference {
            value["difference"] = json!(difference);
        }
        if args.by_patient {
            value["by_patient"] = json!(on.by_patient(model));
        }
        return output::print_json(&value);
    }
    output::print(&table::zero_shot(report))?;
    match difference {
        Some(difference) => {
            output::print("\nthis model minus the other, paired on the same images [95 % interval]")?;
            output::print(&table::figures(difference))
        }
        None => Ok(()),
    }
}

/// Where a model can keep something: a folder of one's own.
fn model_folder(model: &str) -> Result<PathBuf> {
    let source = Source::parse(model)?;
    let folder = source.folder().map(Path::to_path_buf);
    folder.with_context(|| format!("--model {model}: rules are kept in a model's folder, and this is none"))
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

fn keep_temperature(on: &Classification, model: &Classified, name: &str) -> Result<KeptTemperature> {
    let (kept, fitted_on) = on.temperature(model)?;
    kept.keep(&model_folder(name)?)?;
    let what = format!("temperature {:.3} fitted on {} predictions", kept.temperature, kept.predictions);
    match fitted_on {
        Some(split) => tracing::info!("{what} of {split} and kept with the model"),
        None => tracing::warn!(
            "{what} of the rows that are judged and kept with the model, so how calibrated these are says nothing; \
             --fit-split names others"
        ),
    }
    Ok(kept)
}

fn keep_sets(on: &Classification, model: &mut Classified, name: &str, alpha: f64) -> Result<()> {
    let (kept, calibrated_on) = on.calibrate_sets(model, alpha)?;
    kept.keep(&model_folder(name)?).context("--keep-conformal")?;
    match calibrated_on {
        Some(split) => {
            tracing::info!("sets calibrated on {split} and kept with the model");
            on.give_sets(model, &kept)
        }
        None => {
            tracing::warn!(
                "sets calibrated on the {} patients that are judged and kept with the model, so what they hold of \
                 these says nothing; --fit-split names others",
                kept.patients
            );
            Ok(())
        }
    }
}
