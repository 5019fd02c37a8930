//! `reportclip data split`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cli::manifest_args::ColumnArgs;
use crate::cli::{output, usage};
use crate::data::split::{Unit, assign};
use crate::data::table::{Line, NewColumn, names_text, set_columns};
use crate::data::{Columns, Manifest, Row};
use crate::fs::{may_write_beside, replace_file, way};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rows of a patient (or of what --by says) stay in one split, and so do rows with the same image, by
name or by content.
Cells are written as they are: one that begins with = or + is a formula to spreadsheets, import it there as text.

Examples:
  reportclip data split pairs.csv --out split.csv
  reportclip data split pairs.csv --out split.csv --shares train=0.7,val=0.1,test=0.2 --stratify label --seed 3"
)]
pub(in crate::cli) struct Args {
    /// Manifest: CSV, TSV or JSONL
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// File to write: all columns, and split
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Splits and how much of all rows each holds
    #[arg(long, default_value = "train=0.8,val=0.1,test=0.1")]
    shares: String,
    /// What stays whole
    #[arg(long, value_enum, default_value = "patient")]
    by: By,
    /// Spread this column's values alike over the splits
    #[arg(long, value_name = "COLUMN")]
    stratify: Option<String>,
    /// Seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write over an existing file
    #[arg(long)]
    force: bool,
    /// Folder that image paths start at; default the manifest's
    #[arg(long, value_name = "DIR")]
    image_root: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum By {
    Patient,
    Study,
    Image,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let shares = shares(&args.shares).map_err(|e| usage::wrong(&e))?;
    may_write_beside(&args.out, args.force, [args.manifest.as_path()])?;
    let mut columns = args.columns.columns();
    // The split's column is written over.
    let Columns { image, report, patient_id, study_id, label, split, .. } = &columns;
    let others = [image, report, patient_id, study_id, label].into_iter().chain(&args.stratify);
    usage::ensure(!others.into_iter().any(|name| name == split), || {
        format!("--split-column {split}: is the name of another column, which would be written over")
    })?;
    if let Some(column) = &args.stratify {
        columns.label = column.clone();
    }
    let manifest = Manifest::open(&args.manifest, &columns, args.image_root.as_deref())?;
    manifest.spare(&args.out).context("--out")?;
    if let Some(problem) = manifest.problems.first() {
        bail!("{problem}; {} rows cannot be used, see `reportclip data lint`", manifest.problems.len());
    }
    let rows = &manifest.rows;
    let unit = match args.by {
        By::Patient => Unit::Patient,
        By::Study => Unit::Study,
        By::Image => Unit::Image,
    };
    let lacks = |n: usize, column: &str| format!("{n} rows have no {column}; name its column, or choose another --by");
    let nameless = match args.by {
        By::Patient => rows.iter().filter(|r| r.patient_id().is_none()).count(),
        By::Study => rows.iter().filter(|r| r.study_id().is_none()).count(),
        By::Image => 0,
    };
    let column = if matches!(args.by, By::Patient) { &columns.patient_id } else { &columns.study_id };
    ensure!(nameless == 0, "{}: {}", args.manifest.display(), lacks(nameless, column));
    if let Some(column) = &args.stratify {
        ensure!(rows.iter().any(|r| r.label().is_some()), "--stratify: no row has a {column:?}");
    }
    let split = assign(rows, unit, &shares, args.stratify.is_some(), args.seed);
    let names: Vec<&str> = split.iter().map(|&s| shares[s].0.as_str()).collect();
    replace_file(&args.out, written(args, &columns, rows, &names)?.as_bytes())?;
    let mut table = Vec::new();
    for (s, (name, share)) in shares.iter().enumerate() {
        let of = || rows.iter().zip(&split).filter(|(_, split)| **split == s).map(|(row, _)| row);
        let patients: BTreeSet<&str> = of().filter_map(|r| r.patient_id()).collect();
        let mut labels: BTreeMap<&str, usize> = BTreeMap::new();
        if args.stratify.is_some() {
            of().for_each(|r| *labels.entry(r.label().unwrap_or("")).or_default() += 1);
        }
        table.push(json!({
            "split": name, "asked": share, "rows": of().count(), "patients": patients.len(), "labels": labels,
        }));
    }
    if args.json {
        return output::print_json(&json!({"out": args.out, "seed": args.seed, "splits": table}));
    }
    output::print(&shown(&args.out, rows.len(), &table))
}

/// The manifest with the split of each row on all of its lines; relative image paths lead from the new file to where
/// they led before.
fn written(args: &Args, columns: &Columns, rows: &[Row], splits: &[&str]) -> Result<String> {
    let by_row: HashMap<u64, &str> = rows.iter().zip(splits).map(|(row, split)| (row.line, *split)).collect();
    let lines = Manifest::lines(&args.manifest, columns, args.image_root.as_deref())?;
    let of_line = |line: &Line| Some((line.number, *by_row.get(&line.row)?));
    let by_line: HashMap<u64, &str> = lines.iter().filter_map(of_line).collect();
    let split = NewColumn { name: &columns.split, value: &|line| by_line.get(&line).copied() };
    let folder = |file: &Path| file.parent().unwrap_or(Path::new("")).to_path_buf();
    // Whoever names a root names it again with the new file.
    let start = match &args.image_root {
        Some(_) => PathBuf::new(),
        None => way(&folder(&args.out), &folder(&args.manifest))?,
    };
    let moved = lines
        .iter()
        .filter(|line| !start.as_os_str().is_empty() && line.images.iter().any(|name| Path::new(name).is_relative()));
    let moved_images = |line: &Line| {
        // An absolute path stays as it is.
        let moved: Vec<String> = line.images.iter().map(|name| start.join(name).display().to_string()).collect();
        names_text(&moved, &columns.bag.separator)
    };
    let images: HashMap<u64, String> = moved.map(|line| (line.number, moved_images(line))).collect();
    if !images.is_empty() {
        tracing::info!("image paths lead from the new file's folder now, by {}", start.display());
    }
    let image = NewColumn { name: &columns.image, value: &|line| images.get(&line).map(String::as_str) };
    set_columns(&args.manifest, columns, &[split, image])
}

fn shown(out: &Path, rows: usize, table: &[Value]) -> String {
    let mut lines = vec![format!("{}: {rows} rows", out.display())];
    for split in table {
        let count = split["rows"].as_u64().unwrap_or(0);
        let mut line = format!(
            "{:<8} {count:>8} rows ({:.1} %, asked {:.1} %), {} patients",
            split["split"].as_str().unwrap_or_default(),
            100.0 * count as f64 / rows.max(1) as f64,
            100.0 * split["asked"].as_f64().unwrap_or(0.0),
            split["patients"]
        );
        let labels = split["labels"].as_object().map(|labels| {
            labels.iter().take(8).map(|(label, n)| format!("{label} {n}")).collect::<Vec<_>>().join(", ")
        });
        if let Some(labels) = labels.filter(|l| !l.is_empty()) {
            line.push_str(&format!("; {labels}"));
        }
        lines.push(line);
    }
    lines.join("\n")
}

fn shares(text: &str) -> Result<Vec<(String, f64)>> {
    let hint = "--shares: allowed is a list such as train=0.8,val=0.1,test=0.1";
    let mut shares = Vec::new();
    for part in text.split(',') {
        let (name, share) = part.split_once('=').with_context(|| format!("{hint}; {part:?} has no ="))?;
        let share: f64 = share.trim().parse().ok().with_context(|| format!("{hint}; {share:?} is no number"))?;
        ensure!(share > 0.0 && share <= 1.0, "{hint}; {share} is not between 0 and 1");
        shares.push((name.trim().to_string(), share));
    }
    let sum: f64 = shares.iter().map(|(_, s)| s).sum();
    ensure!((sum - 1.0).abs() < 1e-6, "{hint}; they add up to {sum}, not 1");
    Ok(shares)
}
