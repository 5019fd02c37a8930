//! `reportclip model`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use serde_json::json;

use super::output;
use crate::export::{ModelFolder, write_model};
use crate::fs::replace_folder;
use crate::hub::{ModelFiles, Source};
use crate::model::Part;
use crate::model::checkpoint::{self, Inspection, LoadOptions};

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
    ///   reportclip model merge --model runs/demo/model --base openai/clip-vit-base-patch32 --alpha 0.5 --out merged
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
        out: std::path::PathBuf,
    },
    /// What a model is made of, what of its files is used, and what training it takes
    ///
    /// Examples:
    ///   reportclip model inspect microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224
    ///   reportclip model inspect runs/demo/model --batch-size 64 --tensors
    #[command(verbatim_doc_comment)]
    Inspect {
        /// Folder or hub id of a dual encoder
        model: String,
        /// Pairs a chunk, for the estimate of memory
        #[arg(long, default_value_t = 32)]
        batch_size: usize,
        /// List which tensor is which weight
        #[arg(long)]
        tensors: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Download { model } => download(model),
        Command::Merge { model, base, alpha, out } => merge(model, base, *alpha, out),
        Command::Inspect { model, batch_size, tensors, json } => inspect(model, *batch_size, *tensors, *json),
    }
}

fn download(model: &str) -> Result<()> {
    let files = ModelFiles::open(&Source::parse(model)?)?;
    // Opening it fetches all that training needs, and shows now rather than later that it is usable.
    let weights = if checkpoint::is_tower(&files)? {
        crate::train::fetch_tower(&files)?
    } else {
        let (loaded, _) = crate::train::open_pretrained(&files, &LoadOptions::default(), None, &Device::Cpu)?;
        loaded.params.count().0
    };
    let commit = files.commit().map_or(String::new(), |c| format!(", commit {c}"));
    output::print(&format!("{}: {weights} weights, ready for offline use{commit}", files.source()))
}

fn merge(model: &str, base: &str, alpha: f64, out: &std::path::Path) -> Result<()> {
    anyhow::ensure!((0.0..=1.0).contains(&alpha), "--alpha is {alpha}; allowed is 0 to 1");
    anyhow::ensure!(!out.exists(), "{}: exists already; nothing is overwritten, name another folder", out.display());
    let open = |name: &str| -> Result<_> {
        let files = ModelFiles::open(&Source::parse(name)?)?;
        crate::train::open_pretrained(&files, &LoadOptions::default(), None, &Device::Cpu)
    };
    let ((tuned, folder), (before, _)) = (open(model)?, open(base)?);
    let mixed = tuned.params.mixed(&before.params, alpha).context("these two are not of one shape")?;
    let weights = mixed.tensors();
    let origin = format!("{} Mixed with the model before: {alpha} of the fine-tuned weights.", folder.origin);
    let folder = ModelFolder { origin, ..folder };
    replace_folder(out, |path| write_model(path, &folder, &weights))?;
    output::print(&format!("model: {}", out.display()))
}

fn inspect(model: &str, batch_size: usize, tensors: bool, as_json: bool) -> Result<()> {
    let files = ModelFiles::open(&Source::parse(model)?)?;
    let found = checkpoint::inspect(&files)?;
    let counts = counts(&found);
    let all: usize = counts.values().sum();
    let c = &found.config;
    let activations = 4 * batch_size * (c.vision.activations() + c.text.activations());
    // Weights, their gradients, and AdamW's two moments, all f32.
    let memory_mib = (16 * all + activations) >> 20;
    let opened = if found.problems.is_empty() {
        Some(crate::train::open_pretrained(&files, &LoadOptions::default(), None, &Device::Cpu))
    } else {
        None
    };
    let mut refused = found.problems.clone();
    let folder = match opened {
        Some(Ok((_, folder))) => Some(folder),
        Some(Err(error)) => {
            refused.push(crate::error::one_line(&error));
            None
        }
        None => None,
    };
    let preprocess = folder.as_ref().map(|f| f.preprocess.to_json());
    let tokenizer = folder.as_ref().map(|f| (f.tokenizer.class().to_string(), f.tokenizer.vocab_size()));
    if as_json {
        let list: Vec<_> = found.mapped.iter().map(|m| json!([m.theirs, m.shape, m.ours, m.change])).collect();
        let unused: Vec<_> = found.ignored.iter().map(|i| json!([i.name, i.reason])).collect();
        output::print_json(&json!({
            "source": files.source().to_string(), "layout": found.family.name(), "image_tower": c.vision.name(),
            "text_tower": c.text.name(), "image_size": c.vision.image_size(),
            "context_length": c.text.context_length(), "embed_dim": c.embed_dim, "parameters": counts,
            "preprocessing": preprocess, "tokenizer": tokenizer, "tensors": list, "unused": unused,
            "memory_mib": memory_mib, "batch_size": batch_size, "refused": refused,
        }))?;
    } else {
        let mut lines = vec![
            format!("{}: {} layout, {all} weights", files.source(), found.family.name()),
            format!(
                "image tower: {}, {} weights, images {2}×{2}",
                c.vision.name(),
                counts["image tower"],
                c.vision.image_size()
            ),
            format!(
                "text tower: {}, {} weights, up to {} tokens",
                c.text.name(),
                counts["text tower"],
                c.text.context_length()
            ),
            format!("heads: {} weights, shared space {} wide", counts["heads"], c.embed_dim),
        ];
        if let Some((class, size)) = &tokenizer {
            lines.push(format!("tokenizer: as {class}, {size} tokens"));
        }
        if let Some(p) = &preprocess {
            lines.push(format!(
                "preprocessing: as {}, size {}, resample {}",
                p["image_processor_type"], p["size"], p["resample"]
            ));
        }
        lines.push(format!("training all of it at batch {batch_size}: about {memory_mib} MiB"));
        if tensors {
            lines.extend(found.mapped.iter().map(|m| {
                let change = if m.change.is_empty() { String::new() } else { format!(", {}", m.change) };
                format!("  {} {:?} → {}{change}", m.theirs, m.shape, m.ours)
            }));
        } else {
            lines.push(format!("tensors: {} are used (--tensors lists them)", found.mapped.len()));
        }
        lines.extend(found.ignored.iter().map(|i| format!("unused: {}: {}", i.name, i.reason)));
        output::print(&lines.join("\n"))?;
    }
    match refused.as_slice() {
        [] => Ok(()),
        problems => {
            const SHOWN: usize = 5;
            problems.iter().take(SHOWN).for_each(|problem| output::error(problem));
            match problems.len().saturating_sub(SHOWN) {
                0 => bail!("this model would be refused"),
                more => bail!("this model would be refused; {more} more reasons are in --json"),
            }
        }
    }
}

/// Weights by part of the model.
fn counts(found: &Inspection) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::from([("image tower", 0), ("text tower", 0), ("heads", 0)]);
    for spec in &found.specs {
        let part = match spec.part {
            Part::Image => "image tower",
            Part::Text => "text tower",
            Part::Heads => "heads",
        };
        *counts.entry(part).or_default() += spec.shape.elem_count();
    }
    counts
}
