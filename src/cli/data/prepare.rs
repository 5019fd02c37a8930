//! `reportclip data prepare`.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{output, usage};
use crate::data::prepare::{Job, Options, Preset};
use crate::error::{Problem, Problems, did_you_mean};
use crate::fs::check_writable;
use crate::train::stop;
use crate::words::counted;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads a data set in the layout in which it is downloaded: openi, mimic-cxr, roco, chexpert-plus, \
padchest, a clone
of github.com/ieee8023/covid-chestxray-dataset, ct-rate and merlin, whose volumes stay where they are, ms-cxr and
chestx-det, whose findings are drawn as boxes, or a folder of images, series or volumes with texts beside them. Numbers
of patients and studies are written as salted hashes. The same command goes on where it was stopped, writes anew what
was made from other data or with another --size, and removes from the folder what it wrote and no row uses any more. Of
PNG and JPEG files that keep their size everything but the pixels is left out: texts, Exif, profiles. Cells of the CSV
are written as they are, and a report may begin with = or +, which spreadsheets take for a formula: import it there as
text.

Examples:
  reportclip data prepare mimic-cxr /data/mimic-cxr-jpg --out data/mimic --size 512
  reportclip data prepare openi /data/openi --out data/openi
  reportclip data prepare mimic-cxr /data/mimic-cxr-jpg --out data/mimic --keep-paths
  reportclip data prepare covid-chestxray covid-chestxray-dataset --out data/chest-notes --size 384
  reportclip data prepare folder studies --out data/ours --size 384 --webdataset 1000"
)]
pub(in crate::cli) struct Args {
    /// openi, mimic-cxr, roco, chexpert-plus, padchest, covid-chestxray, ct-rate, merlin, ms-cxr, chestx-det or folder
    #[arg(value_name = "PRESET")]
    preset: String,
    /// Where the data set lies
    #[arg(value_name = "DIR")]
    root: PathBuf,
    /// Folder for manifest.csv and summary.json, and for images or shards
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write images with a shorter side of so many pixels, as JPEG; larger ones only are reduced
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(16..=4096))]
    size: Option<u32>,
    /// Leave images where they are, metadata and all; the manifest then names their files, and with them patients
    #[arg(long, conflicts_with_all = ["size", "webdataset"])]
    keep_paths: bool,
    /// Write tar shards of so many rows
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1..))]
    webdataset: Option<u32>,
    /// What numbers of patients are hashed with; default drawn once and kept in the folder, file salt
    #[arg(long)]
    salt: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn no_preset(name: &str) -> Problems {
    let known: Vec<&str> = Preset::names().collect();
    let hint = did_you_mean(name, known.iter().copied()).map_or(String::new(), |k| format!("; did you mean {k}?"));
    Problems(vec![Problem(format!("{name:?} is no preset; allowed are {}{hint}", known.join(", ")))])
}

pub(super) fn run(args: &Args) -> Result<()> {
    let preset = Preset::find(&args.preset).ok_or_else(|| no_preset(&args.preset))?;
    ensure!(args.root.exists(), "{}: there is no such folder", args.root.display());
    let options = Options {
        size: args.size,
        keep_paths: args.keep_paths,
        shard: args.webdataset.map(|n| n as usize),
        salt: args.salt.clone(),
    };
    options.writes_images(&preset).map_err(|e| usage::wrong(&e))?;
    check_writable(&args.out).context("--out")?;
    stop::listen()?;
    let found = preset.read(&args.root)?;
    found.notes.iter().for_each(|note| tracing::warn!("{note}"));
    let bar = ProgressBar::new(found.entries.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} images, {eta} left").context("a progress bar")?);
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let job = Job { root: &args.root, out: &args.out, options, progress: &progress, stop: &stop::asked };
    let summary = job.run(&preset, &found)?;
    bar.finish_and_clear();
    if args.json {
        return output::print_json(&serde_json::to_value(&summary)?);
    }
    let place = match args.webdataset {
        Some(_) => format!("{} shards in {}", summary.shards, args.out.display()),
        None => args.out.join("manifest.csv").display().to_string(),
    };
    let mut lines = vec![format!(
        "{place}: {}, {}, {}; fingerprint {}",
        counted(summary.rows, "row", "rows"),
        counted(summary.studies, "study", "studies"),
        counted(summary.patients, "patient", "patients"),
        &summary.fingerprint[..16]
    )];
    let later = [
        (summary.missing_images, "whose image is not there"),
        (summary.unreadable_images, "whose image cannot be read"),
        (summary.empty_reports, "whose report is empty"),
    ];
    let earlier = summary.left_out.iter().map(|(what, count)| (*count, what.as_str()));
    let left_out = later.into_iter().chain(earlier).filter(|(count, _)| *count > 0);
    lines.extend(left_out.map(|(count, what)| format!("left out: {} {what}", counted(count, "row", "rows"))));
    output::print(&lines.join("\n"))
}
