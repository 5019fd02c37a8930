//! This same program, run once more.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Runs this program with `threads` threads: its talk goes to `log`, its result, which is JSON, comes back.
///
/// # Errors
/// It cannot be started, or fails: with its own error.
pub(super) fn run(args: &[String], threads: usize, log: &Path) -> Result<Value> {
    let file = OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
    let output = Command::new(std::env::current_exe()?)
        .args(args)
        .env("RAYON_NUM_THREADS", threads.max(1).to_string())
        .stdin(Stdio::null())
        .stderr(file)
        .output()
        .context("starting a member")?;
    if output.status.code() == Some(3) {
        bail!("stopped by a signal");
    }
    if !output.status.success() {
        let talk = std::fs::read_to_string(log).unwrap_or_default();
        let last = talk.lines().rev().find_map(|l| l.strip_prefix("error: "));
        bail!("{} (see {})", last.map_or_else(|| output.status.to_string(), str::to_string), log.display());
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("{} gave no JSON", args[0]))
}
