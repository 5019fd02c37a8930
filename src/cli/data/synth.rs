//! `reportclip data synth`.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cli::output;
use crate::data::synth::{self, Ceiling, Language, SynthOptions, VolumeOptions};
use crate::train::stop;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip data synth --out data/phantom
  reportclip data synth --out phantom-noisy --noise 0.2
  reportclip data synth --out phantom-ct --volumes --patients 200
  reportclip data synth --out phantom-zh --language chinese --patients 100 --size 128")]
pub(in crate::cli) struct Args {
    /// Folder to write images/, manifest.csv and boxes.csv, where findings are, into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Patients, about two studies each
    #[arg(long, default_value_t = 700, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    patients: u32,
    /// Pixels a side
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(16..=2048))]
    size: u32,
    /// Seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Language of the reports
    #[arg(long, value_enum, default_value = "english")]
    language: LanguageArg,
    /// Share of the training reports that are exchanged among studies or wrong in part; columns noise and true_report
    /// then tell which and what is right. About one in eight of the exchanged goes from a normal study to another
    /// normal one, which it fits
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    noise: f64,
    /// Share of the studies that show no finding, 0 to 1 in steps of 0.01
    #[arg(long, default_value_t = 0.35, value_parser = share)]
    normal: f64,
    /// Draw CTs of the chest instead, one a patient, as .nii.gz of size × size × size / 2 voxels; column finding_slices
    /// tells which slices show what the report says
    #[arg(long, conflicts_with_all = ["noise", "normal", "language"])]
    volumes: bool,
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("allowed are shares from 0 to 1, such as 0.2".into()),
    }
}

fn volumes(args: &Args) -> Result<()> {
    let options = VolumeOptions { patients: args.patients as usize, seed: args.seed, size: args.size as usize };
    stop::listen()?;
    let drawn = synth::write_volumes(&args.out, &options, &stop::asked);
    let count = drawn.with_context(|| args.out.display().to_string())?;
    output::print(&format!("{}: {count} phantom CTs", args.out.join("manifest.csv").display()))
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LanguageArg {
    English,
    Chinese,
}

pub(super) fn run(args: &Args) -> Result<()> {
    if args.volumes {
        return volumes(args);
    }
    let options = SynthOptions {
        patients: args.patients as usize,
        seed: args.seed,
        size: args.size,
        language: match args.language {
            LanguageArg::English => Language::English,
            LanguageArg::Chinese => Language::Chinese,
        },
        noise: args.noise,
        normal: (100.0 * args.normal).round() as u32,
    };
    let manifest = args.out.join("manifest.csv");
    stop::listen()?;
    let drawn = synth::write_until(&args.out, &options, &stop::asked);
    let studies = drawn.with_context(|| args.out.display().to_string())?;
    output::print(&format!("{}: {studies} phantom studies of {} patients", manifest.display(), args.patients))?;
    let Ceiling { images, reports, recall_at_1, auroc } = synth::ceiling(&options, "test");
    if images == 0 {
        return Ok(());
    }
    let (to_text, to_image) = recall_at_1;
    output::print(&format!(
        "test: {images} pictures, {reports} reports; who sees all that is drawn reaches a recall@1 of {:.1} % \
         image→text and {:.1} % text→image at most; who scores each finding by itself, a zero-shot AUROC of {auroc:.3}",
        100.0 * to_text,
        100.0 * to_image
    ))
}
