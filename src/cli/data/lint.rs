//! `reportclip data lint`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::manifest_args::{ColumnArgs, manifest_help};
use crate::cli::output;
use crate::data::Manifest;
use crate::data::lint::{Level, LintOptions, LintReport, lint, page};
use crate::fs::{may_write_beside, replace_private};
use crate::session::open_tokenizer;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exits with 1 where it finds an error.

Examples:
  reportclip data lint data/pairs.csv
  reportclip data lint data/pairs.csv --model openai/clip-vit-base-patch32 --html check.html
  reportclip data lint 'shards/train-{000..012}.tar' --json")]
pub(in crate::cli) struct Args {
    #[arg(value_name = "MANIFEST", help = manifest_help())]
    manifest: PathBuf,
    /// Folder that image paths start at; default the manifest's
    #[arg(long, value_name = "DIR")]
    image_root: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Pairs that a step will see, for the false negatives in it
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Model folder or hub id whose tokenizer cuts the reports
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<String>,
    /// Tokens a text, where it is not the model's own number
    #[arg(long, requires = "model", value_parser = context_length)]
    context_length: Option<usize>,
    /// Open at most so many images, evenly spread; 0 = none
    #[arg(long, default_value_t = usize::MAX, hide_default_value = true)]
    max_images: usize,
    /// Training will flip images
    #[arg(long)]
    horizontal_flip: bool,
    /// Write a page with thumbnails and histograms
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write over an existing page
    #[arg(long, requires = "html")]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// As model.context_length.
fn context_length(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (4..=4096).contains(number));
    number.ok_or_else(|| "allowed are whole numbers from 4 to 4096".into())
}

pub(super) fn run(args: &Args) -> Result<()> {
    let read = [args.manifest.as_path()];
    args.html.as_ref().map_or(Ok(()), |path| may_write_beside(path, args.force, read)).context("--html")?;
    let tokenizer = args.model.as_ref().map(|name| open_tokenizer(name, args.context_length)).transpose()?;
    let manifest = Manifest::open(&args.manifest, &args.columns.columns(), args.image_root.as_deref())?;
    args.html.as_ref().map_or(Ok(()), |path| manifest.spare(path)).context("--html")?;
    let bar = ProgressBar::new(0)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} images, {eta} left").context("a progress bar")?);
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let options = LintOptions {
        batch_size: args.batch_size as usize,
        tokenizer: tokenizer.as_ref(),
        max_images: args.max_images,
        flip: args.horizontal_flip,
    };
    let report = lint(&manifest, &args.manifest.display().to_string(), &options, &progress)?;
    bar.finish_and_clear();
    if let Some(path) = &args.html {
        replace_private(path, page(&report, &manifest.rows).as_bytes())?;
    }
    if args.json {
        output::print_json(&serde_json::to_value(&report)?)?;
    } else {
        output::print(&text(&report, args.html.as_deref(), tokenizer.is_some()))?;
    }
    let errors = report.findings.iter().filter(|f| f.level == Level::Error).count();
    if errors > 0 {
        let kinds = if errors == 1 { "kind of error was" } else { "kinds of errors were" };
        bail!("{}: {errors} {kinds} found", report.manifest);
    }
    Ok(())
}

fn text(report: &LintReport, html: Option<&Path>, with_tokenizer: bool) -> String {
    const SHOWN: usize = 3;
    let mut lines = vec![format!(
        "{}: {} usable rows, {}, {} reports, {} patients",
        report.manifest,
        report.rows,
        report.images_in_words(),
        report.reports,
        report.patients
    )];
    for finding in &report.findings {
        let level = match finding.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Note => "note",
        };
        lines.push(format!("{level:<8} {:>7} {}: {}", finding.count, finding.kind, finding.message));
        let shown: Vec<&str> = finding.rows.iter().take(SHOWN).map(String::as_str).collect();
        let more = if finding.count > SHOWN { ", …" } else { "" };
        lines.push(format!("{:17}{}{more}", "", shown.join(", ")));
    }
    if let Some(sizes) = &report.bag_sizes {
        let bars = sizes.bars.iter().filter(|(_, rows)| *rows > 0).map(|(images, rows)| format!("{images}: {rows}"));
        lines.push(format!("{}: {}", sizes.name, bars.collect::<Vec<_>>().join(", ")));
    }
    if report.findings.is_empty() {
        lines.push("nothing was found".into());
    }
    if !with_tokenizer {
        lines.push("tokens were not counted; name a --model for that".into());
    }
    if let Some(path) = html {
        lines.push(format!("page: {}", path.display()));
    }
    lines.join("\n")
}
