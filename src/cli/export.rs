//! `reportclip export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::manifest_args::{ColumnArgs, manifest_help};
use super::output;
use crate::eval::{RetrievalOptions, RetrievalReport, evaluate};
use crate::export::onnx::{OnnxFile, OnnxModel, RecallLoss};
use crate::fs::{may_make_folder, replace_folder};
use crate::session::{Encoder, RowSource, Session};

/// Write models for other programs.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Write a model as ONNX files, for onnxruntime and transformers.js
    Onnx(OnnxArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip export onnx --model runs/demo/model --out demo-onnx
  reportclip export onnx --model runs/demo/model --out demo-onnx --int8 --data data/phantom/manifest.csv --split test")]
pub(super) struct OnnxArgs {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also files with weights in 8 bits
    #[arg(long)]
    int8: bool,
    #[arg(long, value_name = "MANIFEST", requires = "int8", help = measured_help())]
    data: Option<PathBuf>,
    /// Only the rows of this split; default all rows
    #[arg(long, requires = "data")]
    split: Option<String>,
    /// Folder that image paths start at; default the manifest's
    #[arg(long, value_name = "DIR", requires = "data")]
    image_root: Option<PathBuf>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Items at once where 8 bits are measured; what they are rounded to goes by the whole batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn measured_help() -> String {
    format!("Measure on this what recall 8 bits cost. {}", manifest_help())
}

pub(super) fn run(command: &Command) -> Result<()> {
    let Command::Onnx(args) = command;
    may_make_folder(&args.out, [Path::new(&args.model)]).context("--out")?;
    let session = Session::open(&args.model, "cpu")?;
    let model = OnnxModel::new(&session)?;
    let losses = match &args.data {
        Some(manifest) => losses(args, manifest, &session, &model)?,
        None => Vec::new(),
    };
    let mut files = Vec::new();
    replace_folder(&args.out, |folder| {
        files = model.write(folder, args.int8, &losses)?;
        Ok(())
    })?;
    if args.json { print_json(args, &files, &losses) } else { print(args, &files, &losses) }
}

/// The recalls of both directions, in f32 and in 8 bits.
fn losses(args: &OnnxArgs, manifest: &Path, session: &Session, model: &OnnxModel) -> Result<Vec<RecallLoss>> {
    let mut columns = args.columns.columns();
    columns.bag.on_bad = session.folder.bags.on_bad;
    let source = RowSource {
        manifest: manifest.to_path_buf(),
        split: args.split.clone(),
        only_blank: None,
        image_root: args.image_root.clone(),
        columns,
    };
    let rows = source.rows(&session.folder.report)?;
    let options = RetrievalOptions { bootstrap: 0, loss_batch_size: 32, seed: 0 };
    let full = evaluate(&session.encoder(args.batch_size as usize)?, &rows, &options)?;
    let encoder = Encoder { model: model.in_int8()?, ..session.encoder(args.batch_size as usize)? };
    let int8 = evaluate(&encoder, &rows, &options)?;
    let recalls = |report: &RetrievalReport| {
        let directions = [("image→text", &report.image_to_text), ("text→image", &report.text_to_image)];
        let figures = directions.map(|(name, d)| d.figures.figures().map(|(figure, value)| (name, figure, value)));
        figures.into_iter().flatten().filter(|(_, figure, _)| figure.starts_with("recall")).collect::<Vec<_>>()
    };
    let pairs = recalls(&full).into_iter().zip(recalls(&int8));
    Ok(pairs
        .map(|((name, figure, full), (.., int8))| RecallLoss { figure: format!("{name} {figure}"), full, int8 })
        .collect())
}

fn print(args: &OnnxArgs, files: &[OnnxFile], losses: &[RecallLoss]) -> Result<()> {
    for f in files {
        let (inputs, outputs) = (f.inputs.join(", "), f.outputs.join(", "));
        output::print(&format!("{:<34}{:>9.2} MB  {inputs} → {outputs}", f.name, f.bytes as f64 / 1e6))?;
    }
    if !losses.is_empty() {
        output::print(&format!("{:<34}{:>9}{:>9}{:>12}", "", "f32", "8 bits", "difference"))?;
    }
    for RecallLoss { figure, full, int8 } in losses {
        let (full, int8) = (100.0 * full, 100.0 * int8);
        output::print(&format!("{figure:<34}{full:>7.1} %{int8:>7.1} %{:>+12.1}", int8 - full))?;
    }
    output::print(&format!("model: {}", args.out.display()))
}

fn print_json(args: &OnnxArgs, files: &[OnnxFile], losses: &[RecallLoss]) -> Result<()> {
    let file = |f: &OnnxFile| json!({"name": f.name, "bytes": f.bytes, "inputs": f.inputs, "outputs": f.outputs});
    let loss = |l: &RecallLoss| json!({"figure": l.figure, "f32": l.full, "int8": l.int8});
    output::print_json(&json!({
        "out": args.out,
        "files": files.iter().map(file).collect::<Vec<_>>(),
        "recall": losses.iter().map(loss).collect::<Vec<_>>(),
    }))
}
