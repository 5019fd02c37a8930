//! `reportclip bench parity`.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{output, usage};
use crate::bench::parity::{self, Finding};
use crate::device;
use crate::ops;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip bench parity --device cuda
  reportclip bench parity --device cpu --models tests/golden/encoders --json")]
pub(super) struct ParityArgs {
    /// Folder of tiny models with what their libraries gave, as tests/golden/encoders: one step of each instead of
    /// single operations
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
    /// Copies and products alone: whether the device works at all
    #[arg(long, conflicts_with = "models")]
    quick: bool,
    /// On a GPU, where products are in bf16: attention and convolutions as well, as train.tensor_cores has it
    #[arg(long)]
    tensor_cores: bool,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    /// A line of JSON a comparison
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ParityArgs) -> Result<()> {
    let (device, reason) = device::choose(&args.device, (0, 1))?;
    tracing::info!("device: {reason}");
    ops::use_tensor_cores(args.tensor_cores);
    let (mut all, mut failed) = (0, 0);
    let mut tell = |finding: Finding| {
        all += 1;
        failed += usize::from(!finding.ok);
        if args.json {
            return output::print_json(&serde_json::to_value(&finding)?);
        }
        let Finding { what, precision, allowed, note, .. } = &finding;
        let verdict = if finding.ok { "ok" } else { "FAILED" };
        let found = finding.difference.map_or("failed".to_string(), |d| format!("{d:.1e} of {allowed:.0e}"));
        output::print(&format!("{verdict}: {what}, {precision}: {found} ({note})"))
    };
    match &args.models {
        Some(folder) => parity::models(folder, &device, &mut tell)?,
        None if args.quick => parity::quick(&device, &mut tell)?,
        None => parity::operations(&device, &mut tell)?,
    }
    ensure!(failed == 0, "{failed} of {all} comparisons failed");
    Ok(())
}
