//! `reportclip model`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::{output, usage};
use crate::export::write_model;
use crate::fs::{may_make_folder, replace_folder};
use crate::session::{self, Inspected, Session};

/// Most reasons that are told one by one.
const SHOWN: usize = 5;

/// Fetch models and look into them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Fetch a model or a tower into the cache, so that it can be used offline
    ///
    /// Examples:
    ///   reportclip model download openai/clip-vit-base-patch32
    ///   reportclip model download emilyalsentzer/Bio_ClinicalBERT
    #[command(verbatim_doc_comment)]
    Download {
        /// Hub id, org/name or org/name@revision
        model: String,
    },
    /// Mix a fine-tuned model with the one that it was made from (WiSE-FT, arXiv 2109.01903)
    ///
    /// Every weight becomes alpha × model + (1 − alpha) × base. `eval --wise-ft` tries several alphas.
    ///
    /// Examples:
    ///   reportclip model merge --model runs/first/model --base openai/clip-vit-base-patch32 --alpha 0.5 --out merged
    #[command(verbatim_doc_comment)]
    Merge {
        /// Folder or hub id of the fine-tuned model
        #[arg(long)]
        model: String,
        /// Folder or hub id of the model before
        #[arg(long)]
        base: String,
        /// How much of the fine-tuned model, 0 to 1
        #[arg(long, default_value_t = 0.5)]
        alpha: f64,
        /// Folder to write
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// What a model is made of, what of its files is used, and what training it takes
    ///
    /// Examples:
    ///   reportclip model inspect microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224
    ///   reportclip model inspect runs/demo/model --batch-size 64 --tensors
    ///   reportclip model inspect runs/demo/model --verify
    #[command(verbatim_doc_comment)]
    Inspect {
        /// Folder or hub id of a dual encoder
        model: String,
        /// Pairs a chunk, for the estimate of memory
        #[arg(long, default_value_t = 32, value_parser = usage::count)]
        batch_size: usize,
        /// List which tensor is which weight
        #[arg(long)]
        tensors: bool,
        /// Only compare the files with their SHA-256: of a model, a checkpoint, or a hub id in the cache
        #[arg(long, conflicts_with = "tensors")]
        verify: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Download { model } => download(model),
        Command::Merge { model, base, alpha, out } => merge(model, base, *alpha, out),
        Command::Inspect { model, verify: true, json, .. } => verify(model, *json),
        Command::Inspect { model, batch_size, tensors, json, .. } => inspect(model, *batch_size, *tensors, *json),
    }
}

fn download(model: &str) -> Result<()> {
    let fetched = session::fetch(model)?;
    let commit = fetched.commit.map_or(String::new(), |c| format!(", commit {c}"));
    output::print(&format!("{}: {} weights, ready for offline use{commit}", fetched.source, fetched.weights))
}

fn merge(model: &str, base: &str, alpha: f64, out: &Path) -> Result<()> {
    usage::ensure((0.0..=1.0).contains(&alpha), || format!("--alpha is {alpha}; allowed is 0 to 1"))?;
    may_make_folder(out, [model, base].map(Path::new)).context("--out")?;
    let mixed = Session::open(model, "cpu")?.mixed(&Session::open(base, "cpu")?, alpha)?;
    replace_folder(out, |path| write_model(path, &mixed.folder, &mixed.params.tensors()))?;
    output::print(&format!("model: {}", out.display()))
}

fn inspect(model: &str, batch_size: usize, tensors: bool, as_json: bool) -> Result<()> {
    let found = session::inspect(model, batch_size)?;
    if as_json {
        print_json(&found, batch_size)?;
    } else {
        output::print(&lines(&found, batch_size, tensors).join("\n"))?;
    }
    found.refused.iter().take(SHOWN).for_each(|problem| output::error(problem));
    match found.refused.len() {
        0 => Ok(()),
        1..=SHOWN => bail!("this model would be refused"),
        all => bail!("this model would be refused; {} more reasons are in --json", all - SHOWN),
    }
}

fn verify(model: &str, as_json: bool) -> Result<()> {
    let found = session::verify(model)?;
    let (whole, damaged, unknown) = (found.whole.len(), found.damaged.len(), found.unknown.len());
    if as_json {
        output::print_json(&json!({
            "source": model, "whole": found.whole, "damaged": found.damaged, "unknown": found.unknown,
        }))?;
    } else if whole > 0 {
        let rest = if unknown > 0 { format!("; of {unknown} others nothing is known") } else { String::new() };
        output::print(&format!("{model}: {whole} files are what their SHA-256 says{rest}"))?;
    }
    found.damaged.iter().take(SHOWN).for_each(|what| output::error(&format!("{model}/{what}")));
    ensure!(damaged == 0, "{model}: {damaged} files are damaged; fetch or make them anew");
    ensure!(whole > 0, "{model}: not verified: it has no SHA256SUMS, nor files of the hub named by their SHA-256");
    Ok(())
}

fn print_json(found: &Inspected, batch_size: usize) -> Result<()> {
    let (files, c) = (&found.files, &found.files.config);
    let list: Vec<_> = files.mapped.iter().map(|m| json!([m.theirs, m.shape, m.ours, m.change])).collect();
    let unused: Vec<_> = files.ignored.iter().map(|i| json!([i.name, i.reason])).collect();
    output::print_json(&json!({
        "source": found.source, "layout": files.family.name(), "image_tower": c.vision.name(),
        "text_tower": c.text.name(), "image_size": c.vision.image_size(),
        "context_length": c.text.context_length(), "embed_dim": c.embed_dim, "parameters": found.weights,
        "preprocessing": found.preprocessing,
        "tokenizer": found.tokenizer.as_ref().map(|t| (&t.class, t.vocab_size)), "tensors": list, "unused": unused,
        "memory_mib": found.memory_mib, "memory_bf16_mib": found.memory_bf16_mib, "batch_size": batch_size,
        "refused": found.refused,
    }))
}

fn lines(found: &Inspected, batch_size: usize, tensors: bool) -> Vec<String> {
    let (files, c) = (&found.files, &found.files.config);
    let all: usize = found.weights.values().sum();
    let mut lines = vec![
        format!("{}: {} layout, {all} weights", found.source, files.family.name()),
        format!(
            "image tower: {}, {} weights, images {2}×{2}",
            c.vision.name(),
            found.weights["image tower"],
            c.vision.image_size()
        ),
        format!(
            "text tower: {}, {} weights, up to {} tokens",
            c.text.name(),
            found.weights["text tower"],
            c.text.context_length()
        ),
        format!("heads: {} weights, shared space {} wide", found.weights["heads"], c.embed_dim),
    ];
    lines.extend(found.tokenizer.as_ref().map(|t| format!("tokenizer: as {}, {} tokens", t.class, t.vocab_size)));
    lines.extend(found.preprocessing.as_ref().map(|p| {
        format!("preprocessing: as {}, size {}, resample {}", p["image_processor_type"], p["size"], p["resample"])
    }));
    lines.push(format!(
        "training all of it at batch {batch_size}: about {} MiB, {} MiB with train.precision = \"bf16\" on a CPU",
        found.memory_mib, found.memory_bf16_mib
    ));
    if tensors {
        lines.extend(files.mapped.iter().map(|m| {
            let change = if m.change.is_empty() { String::new() } else { format!(", {}", m.change) };
            format!("  {} {:?} → {}{change}", m.theirs, m.shape, m.ours)
        }));
    } else {
        lines.push(format!("tensors: {} are used (--tensors lists them)", files.mapped.len()));
    }
    lines.extend(files.ignored.iter().map(|i| format!("unused: {}: {}", i.name, i.reason)));
    lines
}
