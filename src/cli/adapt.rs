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
    let prompts = Prompts::open(&args.prompts).map_err(|e| usage::wrong(&e))?;
    let policy = policy_of(&args.model)?;
    let (source, kept) = source(args)?;
    let adaptation = Adaptation::on(&source, &policy, prompts, request)?;
    let session = Session::open(&args.model, &args.device)?.in_precision(args.precision.precision);
    let bar = output::bar();
    let told = |what: &'static str, done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(what);
    };
    let judged = adaptation.judge(&session, kept.as_ref(), method, &told);
    bar.finish_and_clear();
    let (report, head) = judged?;
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
            columns: args.columns.of_model(&args.model)?,
        };
        return Ok((source, None));
    };
    let index = Index::open(path)?;
    let place = || format!("index {}", path.display());
    check_model(&index.source, &args.model).with_context(place)?;
    let (rows, embeds) = embedded_rows(&index).with_context(place)?;
    let source = index.source.row_source().with_context(place)?;
    let kept = KeptImages::new(&rows, embeds).with_context(place)?;
    Ok((RowSource { split: args.split.clone(), ..source }, Some(kept)))
}

/// Figures that people are shown, with their headings.
const SHOWN: [(&str, &str); 5] = [
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("auroc_macro", "AUROC"),
    ("nll", "NLL"),
    ("ece", "ECE"),
];

fn table(report: &AdaptReport) -> String {
    let row = |name: &str, cell: &dyn Fn(&str) -> Option<String>| {
        let cells = SHOWN.map(|(figure, _)| cell(figure).unwrap_or_default());
        [vec![name.to_string()], cells.to_vec()].concat()
    };
    let spread = |figures: &BTreeMap<String, Spread>, name: &str| figures.get(name).map(written);
    let seeds = if report.seeds == 1 { "1 seed".to_string() } else { format!("{} seeds", report.seeds) };
    let first = format!(
        "{} classes, judged on {} images of {}; shots from {} of {}; {seeds}",
        report.classes.len(),
        report.judged,
        report.judged_on,
        report.pool,
        report.shots_from,
    );
    let mut rows = vec![
        row("", &|name| SHOWN.iter().find(|(figure, _)| *figure == name).map(|(_, heading)| heading.to_string())),
        row("chance", &|name| report.chance.get(name).map(|value| format!("{value:.3}"))),
        row("zero-shot", &|name| spread(&report.zero_shot, name)),
    ];
    let same = |a: &&Setting, b: &&Setting| (a.draw, a.shots) == (b.draw, b.shots);
    let settings: Vec<&Setting> = report.settings.iter().collect();
    for group in settings.chunk_by(|a, b| same(a, b)) {
        rows.push(vec![heading(group[0])]);
        rows.extend(group.iter().map(|s| row(&format!("  {}", s.method.word()), &|name| spread(&s.figures, name))));
    }
    let last = match report.seeds {
        1 => "[95 % interval over patients; of one seed nothing is known of others]",
        _ => "[95 % interval over seeds and patients] ± standard deviation over seeds",
    };
    [first, aligned(&rows), last.to_string()].join("\n")
}

/// Columns as wide as what they hold; a row of one cell is a heading, which may be longer.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        let cells = rows.iter().filter(|row| row.len() == columns).map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| pad(cell, width + 2)).collect();
        cells.concat().trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
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

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_never_run_together() {
        let cells = |cells: &[&str]| cells.iter().map(|c| c.to_string()).collect::<Vec<_>>();
        let long = "12.345 [10.001–14.321] ±12.345";
        let rows = [cells(&["", "NLL", "ECE"]), cells(&["a heading that is rather long, and alone in its row"])];
        let table =
            aligned(&[&rows[..], &[cells(&["  logistic", long, "0.1"]), cells(&["chance", "1.099", ""])]].concat());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[2], format!("  logistic  {long}  0.1"));
        assert_eq!(lines[0].find("ECE"), Some(12 + long.chars().count() + 2));
        assert_eq!((lines[1], lines[3]), ("a heading that is rather long, and alone in its row", "chance      1.099"));
    }
}
