//! `reportclip bench volumes`.

use std::path::PathBuf;

use anyhow::Result;

use super::bench_lines::spread;
use super::{output, usage};
use crate::bench::{self, VolumesBench};
use crate::data::VolumePolicy;
use crate::device;
use crate::error::one_line;
use crate::json;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip bench volumes scan.nii.gz
  reportclip bench volumes series/ --policy '{\"window\": \"lung\", \"spacing\": [1.5, 1.5, 3]}' --keep slices.npy")]
pub(super) struct VolumesArgs {
    /// NIfTI and NumPy files, folders of DICOM series
    #[arg(value_name = "VOLUME", required = true)]
    volumes: Vec<PathBuf>,
    /// How they are cut, as reportclip_bags.json has it: axis, spacing, slices, orientation, window; the default of
    /// each that is not there
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = volume_policy)]
    policy: VolumePolicy,
    /// Write the slices of the first volume to a new file, as a NumPy array of bytes
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// How often all are read, after once for nothing
    #[arg(long, default_value_t = 3, value_parser = usage::count)]
    rounds: usize,
    /// One line of JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VolumesArgs) -> Result<()> {
    // Whatever runs in parallel elsewhere: figures are for one core.
    device::use_threads(1)?;
    let VolumesArgs { volumes, policy, keep, rounds, json } = args;
    let (volumes, policy, keep) = (volumes.clone(), policy.clone(), keep.clone());
    let figures = bench::volumes(&VolumesBench { volumes, policy, rounds: *rounds, keep })?;
    if *json {
        return output::print_json(&serde_json::to_value(figures)?);
    }
    output::print(&format!(
        "volumes: {}, {} slices of {}; {} MiB at most",
        spread(&figures.volumes_per_s),
        figures.slices,
        figures.volumes,
        figures.peak_rss_mib
    ))
}

fn volume_policy(text: &str) -> Result<VolumePolicy, String> {
    let written = json::parse_distinct(text.as_bytes()).and_then(|written| VolumePolicy::from_json(&written));
    written.map_err(|e| one_line(&e))
}
