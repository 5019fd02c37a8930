//! `reportclip bench`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use super::output;
use crate::bench::{self, TrainStepBench};
use crate::device;
use crate::model::ClipConfig;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Time and memory of training steps, random weights on random input
    TrainStep(TrainStepArgs),
}

/// Examples:
///   reportclip bench train-step --batch-size 8 --steps 5 --threads 2 --json
///   reportclip bench train-step --batch-size 64 --accum-freq 8 --steps 2
///   reportclip bench train-step --text-lengths lengths.txt
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct TrainStepArgs {
    /// Built-in architecture
    #[arg(long, default_value = "clip-vit-base-patch32")]
    model: String,
    /// Pairs that pass through the towers at once
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Chunks a step
    #[arg(long, default_value_t = 1)]
    accum_freq: usize,
    /// Steps; the first is told apart
    #[arg(long, default_value_t = 6)]
    steps: usize,
    /// Threads; default: as many as the machine has cores
    #[arg(long)]
    threads: Option<usize>,
    /// Tokens of each text; default: as many as the model takes
    #[arg(long, conflicts_with = "text_lengths")]
    tokens: Option<usize>,
    /// File with the tokens of each text, one number a line; longer ones are cut to what the model takes
    #[arg(long, value_name = "FILE")]
    text_lengths: Option<PathBuf>,
    /// Side of the images
    #[arg(long)]
    image_size: Option<usize>,
    /// Leave the image tower as it is
    #[arg(long)]
    freeze_image: bool,
    /// With --freeze-image: take the tower's output as cached, as training does from the second epoch on
    #[arg(long, requires = "freeze_image")]
    cached_features: bool,
    /// Keep only each block's input for the backward pass
    #[arg(long)]
    checkpoint_activations: bool,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto")]
    device: String,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> Result<()> {
    let started = Instant::now();
    match command {
        Command::TrainStep(args) => train_step(args, started),
    }
}

fn train_step(args: &TrainStepArgs, started: Instant) -> Result<()> {
    if let Some(threads) = args.threads {
        device::use_threads(threads)?;
    }
    let (device, reason) = device::choose(&args.device)?;
    tracing::info!("device: {reason}");
    let mut config = ClipConfig::builtin(&args.model)?;
    if let Some(size) = args.image_size {
        config.vision.image_size = size;
    }
    let text_lengths = match &args.text_lengths {
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
            let parse = |(i, line): (usize, &str)| {
                let length = line.trim().parse::<usize>();
                let place = || format!("{}:{}: {line:?} is not a number of tokens", path.display(), i + 1);
                length.with_context(place).map(|n| n.min(config.text.context_length))
            };
            text.lines().enumerate().map(parse).collect::<Result<Vec<_>>>()?
        }
        None => vec![args.tokens.unwrap_or(config.text.context_length)],
    };
    let bench = TrainStepBench {
        config,
        batch_size: args.batch_size,
        accum_freq: args.accum_freq,
        steps: args.steps,
        text_lengths,
        freeze_image: args.freeze_image,
        cached_features: args.cached_features,
        checkpoint_activations: args.checkpoint_activations,
    };
    let figures = bench::train_step(&bench, &device, started)?;
    if args.json {
        return output::print_json(&serde_json::to_value(figures)?);
    }
    output::print(&format!(
        "step: {:.3} s (fastest {:.3}, slowest {:.3}; the first {:.3}), {:.2} pairs/s, {} MiB at most",
        figures.median_step_s,
        figures.min_step_s,
        figures.max_step_s,
        figures.first_step_s,
        figures.samples_per_s,
        figures.peak_rss_mib
    ))
}
