//! `reportclip adapt`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::manifest_args::{ColumnArgs, PrecisionArg};
use super::sets_table::pad;
use super::{output, usage};
use crate::data::Prompts;
use crate::eval::{AdaptReport, AdaptRequest, Adaptation, Draw, Head, KeptImages, Setting};
use crate::metrics::few_shot::Method;
use crate::metrics::seeds::Spread;
use crate::search::{Index, check_model, embedded_rows};
use crate::session::{RowSource, Session, policy_of};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip adapt --model runs/demo/model --data data/phantom/manifest.csv --split test --prompts prompts/phantom.toml
  reportclip adapt --model runs/demo/model --data m.csv --prompts p.toml --shots 1,4,16 --seeds 20 --draw balanced
  reportclip adapt --model runs/demo/model --index all.safetensors --split test --prompts p.toml --json
  reportclip adapt --model runs/demo/model --data m.csv --split test --prompts p.toml --shots 16 --save runs/demo/model
  reportclip zero-shot --model runs/demo/model --data m.csv --split test --prompts p.toml \\
    --head runs/demo/model/reportclip_head.safetensors

Nothing is chosen on validation data; constants are the same for all data. A patient is never both among the shots and
among those that are judged. Each figure is the mean over seeds, with a 95 % interval over seeds and patients together
and the standard deviation over seeds.")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    /// Manifest whose rows name a class each
    #[arg(long, value_name = "MANIFEST", required_unless_present = "index")]
    data: Option<PathBuf>,
    /// Take the images' embeddings, and the manifest, from what `embed --data` wrote
    #[arg(long, value_name = "FILE.safetensors", conflicts_with = "data")]
    index: Option<PathBuf>,
    /// Prompt file
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Split that is judged; default: one half of the patients, the other half giving the shots
    #[arg(long)]
    split: Option<String>,
    /// Split that shots are drawn from [default: train]
    #[arg(long, requires = "split")]
    shots_split: Option<String>,
    /// Folder that image paths start at; default the manifest's
    #[arg(long, value_name = "DIR", conflicts_with = "index")]
    image_root: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Shots a class; a class that has fewer gives all
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16", value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    shots: Vec<u32>,
    /// Draws of shots
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// How shots are drawn: as many of each class, or as many in all as the data lie
    #[arg(long, value_delimiter = ',', default_value = "balanced,natural", value_parser = ["balanced", "natural"])]
    draw: Vec<String>,
    /// Keep a head in this folder, the model's own or another: of the most shots, by the first --draw and seed
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// By which method that head is made
    #[arg(long, default_value = "text_probe", value_parser = ["training_free", "text_probe", "logistic"])]
    save_method: String,
    /// Write over a head that is there
    #[arg(long, requires = "save")]
    force: bool,
    /// Items at once; does not change the figures
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Bootstrap resamples for 95 % intervals; 0 = none
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    bootstrap: u32,
    /// Seed of draws and resamples
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    #[command(flatten)]
    precision: PrecisionArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut shots: Vec<usize> = args.shots.iter().map(|n| *n as usize).collect();
    shots.sort_unstable();
    shots.dedup();
    let request = AdaptRequest {
        shots_split: args.shots_split.clone(),
        shots,
        draws: args.draw.iter().filter_map(|word| Draw::find(word)).collect(),
        seeds: args.seeds as usize,
        seed: args.seed,
        bootstrap: args.bootstrap as usize,
        batch_size: args.batch_size as usize,
    };
    if let Some(folder) = &args.save {
        Head::may_keep(folder, args.force).context("--save")?;
    }
    let method = Method::find(&args.save_method).context("--save-method")?;
    let prompts = Prompts::open(&args.prompts)?;
    let policy = policy_of(&args.model)?;
    let (source, kept) = source(args)?;
    let adaptation = Adaptation::on(&source, &policy, prompts, request)?;
    let session = Session::open(&args.model, &args.device)?.in_precision(args.precision.precision);
    let (report, head) = adaptation.judge(&session, kept.as_ref(), method)?;
    let saved = match &args.save {
        Some(folder) => Some(head.keep(folder, &args.model, args.force).context("--save")?),
        None => None,
    };
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["head"] = json!(saved);
        return output::print_json(&value);
    }
    output::print(&table(&report))?;
    match saved {
        Some(path) => output::print(&format!("head by {}: {}", args.save_method, path.display())),
        None => Ok(()),
    }
}

/// Where rows are, and embeddings that were made before.
fn source(args: &Args) -> Result<(RowSource, Option<KeptImages>)> {
    let Some(path) = &args.index else {
        let manifest = args.data.clone();
        usage::ensure(manifest.is_some(), || "name --data MANIFEST or --index FILE".into())?;
        let source = RowSource {
            manifest: manifest.unwrap_or_default(),
            split: args.split.clone(),
            only_blank: None,
            image_root: args.image_root.clone(),
            columns: args.columns.columns(),
        };
        return Ok((source, None));
    };
    let index = Index::open(path)?;
    let place = || format!("index {}", path.display());
    check_model(&index.source, &args.model, false).with_context(place)?;
    let (rows, embeds) = embedded_rows(&index).with_context(place)?;
    let source = index.source.row_source().with_context(place)?;
    Ok((RowSource { split: args.split.clone(), ..source }, Some(KeptImages::new(&rows, embeds))))
}

/// Figures that people are shown, with their headings.
const SHOWN: [(&str, &str); 5] = [
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("auroc_macro", "AUROC"),
    ("nll", "NLL"),
    ("ece", "ECE"),
];
const WIDTH: usize = 28;

fn table(report: &AdaptReport) -> String {
    let row = |name: &str, cell: &dyn Fn(&str) -> Option<String>| {
        let cells = SHOWN.map(|(figure, _)| pad(&cell(figure).unwrap_or_default(), WIDTH)).concat();
        format!("{name:<34}{cells}").trim_end().to_string()
    };
    let spread = |figures: &BTreeMap<String, Spread>, name: &str| figures.get(name).map(written);
    let mut lines = vec![
        format!(
            "{} classes, judged on {} images of {}; shots from {} of {}; {} seeds",
            report.classes.len(),
            report.judged,
            report.judged_on,
            report.pool,
            report.shots_from,
            report.seeds
        ),
        row("", &|name| SHOWN.iter().find(|(figure, _)| *figure == name).map(|(_, heading)| heading.to_string())),
        row("chance", &|name| report.chance.get(name).map(|value| format!("{value:.3}"))),
        row("zero-shot", &|name| spread(&report.zero_shot, name)),
    ];
    let same = |a: &&Setting, b: &&Setting| (a.draw, a.shots) == (b.draw, b.shots);
    let settings: Vec<&Setting> = report.settings.iter().collect();
    for group in settings.chunk_by(|a, b| same(a, b)) {
        lines.push(heading(group[0]));
        lines.extend(group.iter().map(|s| row(&format!("  {}", s.method.word()), &|name| spread(&s.figures, name))));
    }
    lines.push("[95 % interval over seeds and patients] ± standard deviation over seeds".into());
    lines.join("\n")
}

fn heading(setting: &Setting) -> String {
    let how = match setting.draw {
        Draw::Balanced => "of each class",
        Draw::Natural => "a class, as the data lie",
    };
    let without = match setting.classes_without {
        0.0 => String::new(),
        some => format!(", {some:.1} classes without"),
    };
    format!("{} {how} ({:.0} images{without})", setting.shots, setting.images)
}

fn written(spread: &Spread) -> String {
    let interval = spread.interval.map_or(String::new(), |(low, high)| format!(" [{low:.3}–{high:.3}]"));
    let deviation = spread.deviation.map_or(String::new(), |deviation| format!(" ±{deviation:.3}"));
    format!("{:.3}{interval}{deviation}", spread.value)
}
