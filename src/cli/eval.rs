//! `reportclip eval`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::manifest_args::JudgeArgs;
use super::{output, sets_table, table, usage};
use crate::data::read_places;
use crate::eval::{Evaluation, EvaluationReport, GroundingReport, MapKind, RetrievalOptions, RetrievalReport};
use crate::fs::{may_write_beside, replace_with};
use crate::model::checkpoint::spare_models;
use crate::session::{RowSource, Session, policy_of};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip eval --model runs/demo/model --data data/phantom/manifest.csv --split test
  reportclip eval --model runs/demo/model --data data/phantom/manifest.csv --split test --linear-probe train
  reportclip eval --model runs/demo/model --data data/phantom/manifest.csv --split test --negation
  reportclip eval --model runs/b/model --compare runs/a/model --data pairs.csv --split test
  reportclip eval --model runs/demo/model --data m.csv --split test --conformal 0.1 --subgroup sex,view
  reportclip eval --model runs/demo/model --data m.csv --split test --grounding boxes.csv
  reportclip eval --model openai/clip-vit-base-patch32 --data pairs.csv --image-root images --json")]
pub(super) struct Args {
    #[command(flatten)]
    judge: JudgeArgs,
    /// Pairs over which each loss is taken
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    loss_batch_size: u32,
    /// Also fit a logistic regression of the labels on the image embeddings of this split, and judge it on --split
    #[arg(long, value_name = "SPLIT")]
    linear_probe: Option<String>,
    /// Also sets of reports, and of images, that leave out what is right in this share of patients to come at most
    #[arg(long, value_name = "ALPHA", value_parser = sets_table::alpha)]
    conformal: Option<f64>,
    /// Columns by whose values these sets are told of, too: groups, none that name patients
    #[arg(long, value_delimiter = ',', value_name = "COLUMN", requires = "conformal")]
    subgroup: Vec<String>,
    /// Also write what each image counts in its row's bag, a line of JSON a row: attention's share, part of the cosine
    /// with the row's report, gradient × input. Images are read once more for this
    #[arg(long, value_name = "FILE.jsonl")]
    bag_weights: Option<PathBuf>,
    /// Write over such a file
    #[arg(long, requires = "bag_weights")]
    force: bool,
    /// Also whether the model finds places: a table with columns image (as the manifest names it), sentence (or report,
    /// or label), and x, y, width, height in pixels, or polygon ("x1 y1 x2 y2 …"), or mask (an image file)
    #[arg(long, value_name = "FILE.csv", conflicts_with = "wise_ft")]
    grounding: Option<PathBuf>,
    /// What its maps show for --grounding: "patches", cosines of patches with the sentence, or "relevance", gradient ×
    /// attention; default what it was trained for
    #[arg(long, value_name = "MAP", requires = "grounding", value_parser = map_kind)]
    grounding_map: Option<MapKind>,
    /// Also how often a true sentence is nearer to its image than its opposite (no effusion and effusion, left and
    /// right, small and large), of the sentences that can surely be turned round
    #[arg(long)]
    negation: bool,
    /// Also figures as sums by patient, which a sweep compares settings by
    #[arg(long, hide = true, requires = "json")]
    by_patient: bool,
    /// Only rows that say nothing in this column: a sweep leaves out reports that are known to be wrong
    #[arg(long, hide = true, value_name = "COLUMN")]
    only_blank: Option<String>,
    /// Also evaluate mixtures with this model, the one that it was fine-tuned from
    #[arg(long, value_name = "DIR|HUB_ID")]
    #[arg(conflicts_with_all = ["compare", "linear_probe", "conformal", "by_patient", "bag_weights", "negation"])]
    wise_ft: Option<String>,
    /// Shares of the fine-tuned model for --wise-ft
    #[arg(long, value_delimiter = ',', default_value = "0,0.25,0.5,0.75,1", requires = "wise_ft")]
    #[arg(allow_hyphen_values = true, value_parser = usage::number)]
    alphas: Vec<f64>,
}

fn map_kind(word: &str) -> Result<MapKind, String> {
    MapKind::find(word).ok_or_else(|| format!("allowed are {}", MapKind::WORDS.join(" and ")))
}

pub(super) fn run(args: &Args) -> Result<()> {
    let shares = args.alphas.iter().all(|a| (0.0..=1.0).contains(a));
    usage::ensure(shares, || "--alphas: allowed are shares from 0 to 1".into())?;
    let judge = &args.judge;
    if let Some(path) = &args.bag_weights {
        let models = [Some(&judge.model), judge.compare.as_ref()].into_iter().flatten().map(Path::new);
        let read = models.chain([judge.data.data.as_path()]).chain(args.grounding.as_deref());
        // First: the other tries the folder by a file.
        spare_models(path).and_then(|()| may_write_beside(path, args.force, read)).context("--bag-weights")?;
        // Images of the manifest end in other ways, so that --force writes over none of them.
        usage::ensure(path.extension().is_some_and(|ending| ending == "jsonl"), || {
            format!("--bag-weights {}: holds lines of JSON; name a file that ends in .jsonl", path.display())
        })?;
    }
    // What is wrong with it is told before the model is asked.
    let places = args.grounding.as_ref().map(|path| read_places(path)).transpose().context("--grounding")?;
    let options = RetrievalOptions {
        bootstrap: judge.bootstrap as usize,
        loss_batch_size: args.loss_batch_size as usize,
        seed: judge.seed,
    };
    let (mut source, policy) = (judge.source()?, policy_of(&judge.model)?);
    source.columns.extra.clone_from(&args.subgroup);
    source.columns.extra.extend(args.only_blank.clone());
    source.only_blank.clone_from(&args.only_blank);
    let mut evaluation = Evaluation::on(&source, &policy, judge.batch_size as usize, options)?;
    if let Some(split) = &args.linear_probe {
        usage::ensure(source.split.as_ref().is_some_and(|s| s != split), || {
            format!("--linear-probe {split}: needs --split, which must be another split than the probe is fitted on")
        })?;
        evaluation = evaluation.with_probe(&RowSource { split: Some(split.clone()), ..source.clone() }, &policy)?;
    }
    if args.negation {
        evaluation = evaluation.with_negation();
    }
    if args.by_patient {
        evaluation = evaluation.with_patients();
    }
    if let Some(alpha) = args.conformal {
        evaluation = evaluation.with_conformal(alpha, args.subgroup.clone(), &source)?;
    }
    let of_table = || format!("--grounding {}", args.grounding.as_deref().unwrap_or(Path::new("")).display());
    places.as_ref().map_or(Ok(()), |places| evaluation.check_places(places)).with_context(of_table)?;
    let model = judge.open(&judge.model)?;
    if let Some(base) = &args.wise_ft {
        let base = judge.open(base)?;
        return print_mixtures(args, &evaluation.judge_mixtures(&model, &base, &args.alphas).context("--wise-ft")?);
    }
    let other = judge.compare.as_ref().map(|other| judge.open(other)).transpose()?;
    let report = evaluation.judge(&model, other.as_ref())?;
    if let Some(path) = &args.bag_weights {
        write_bag_weights(path, &evaluation, &model)?;
    }
    let grounding = places.map(|places| evaluation.grounding(&model, &places, args.grounding_map));
    let grounding = grounding.transpose().with_context(of_table)?;
    print(args, &report, grounding.as_ref())
}

fn write_bag_weights(path: &Path, evaluation: &Evaluation, model: &Session) -> Result<()> {
    replace_with(path, |temporary| {
        let mut file = BufWriter::new(File::create(temporary)?);
        evaluation.bag_weights(model, &mut file)?;
        Ok(file.flush()?)
    })
}

fn print(args: &Args, report: &EvaluationReport, grounding: Option<&GroundingReport>) -> Result<()> {
    if args.judge.json {
        let mut value = serde_json::to_value(&report.retrieval)?;
        if let Some(difference) = &report.difference {
            value["difference"] = json!(difference);
        }
        if let Some(probe) = &report.probe {
            value["linear_probe"] = json!(probe);
        }
        value["top_k"] = json!(report.top_k);
        if let Some(conformal) = &report.conformal {
            value["conformal"] = json!(conformal);
        }
        if let Some(grounding) = grounding {
            value["grounding"] = json!(grounding);
        }
        if let Some(negation) = &report.negation {
            value["negation"] = json!(negation);
        }
        if let Some(by_patient) = &report.by_patient {
            value["by_patient"] = json!(by_patient);
        }
        return output::print_json(&value);
    }
    output::print(&table::retrieval(&[("model", &report.retrieval)]))?;
    output::print(&format!(
        "\nmatching, leaving out what is unsure\n{}",
        sets_table::selective(&report.retrieval.selective)
    ))?;
    output::print(&sets_table::top_k(&report.top_k))?;
    if let Some(conformal) = &report.conformal {
        output::print(&sets_table::conformal(conformal))?;
    }
    if let Some(grounding) = grounding {
        output::print(&table::grounding(grounding))?;
    }
    if let Some(negation) = &report.negation {
        output::print(&table::negation(negation))?;
    }
    if let Some(difference) = &report.difference {
        output::print("\nthis model minus the other, paired on the same rows [95 % interval]")?;
        output::print(&table::figures(difference))?;
    }
    report.probe.as_ref().map_or(Ok(()), |probe| output::print(&table::probe(probe)))
}

/// The same figures for each share of the fine-tuned weights.
fn print_mixtures(args: &Args, reports: &[RetrievalReport]) -> Result<()> {
    let each = args.alphas.iter().zip(reports);
    if args.judge.json {
        let each: Vec<_> = each.map(|(alpha, report)| json!({"alpha": alpha, "report": report})).collect();
        return output::print_json(&each.into());
    }
    let names: Vec<String> = args.alphas.iter().map(|alpha| format!("alpha {alpha}")).collect();
    let columns: Vec<(&str, &RetrievalReport)> = names.iter().map(String::as_str).zip(reports).collect();
    output::print(&table::retrieval(&columns))
}
