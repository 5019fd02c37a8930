//! `reportclip embed`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::manifest_args::{ColumnArgs, PrecisionArg};
use super::{output, usage};
use crate::data::{Manifest, image};
use crate::fs::may_write_beside;
use crate::search::{IndexContents, IndexModel, build};
use crate::session::RowSource;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip embed --model runs/demo/model --data data/phantom/manifest.csv --out all.safetensors
  reportclip embed --model runs/demo/model --images a.png b.png --out images.safetensors
  reportclip embed --model runs/demo/model --texts lines.txt --out texts.safetensors")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    /// Manifest: both image_embeds and text_embeds, rows in its order
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["images", "texts"])]
    data: Option<PathBuf>,
    /// Folder that the manifest's image paths start at
    #[arg(long, value_name = "DIR", requires = "data")]
    image_root: Option<PathBuf>,
    /// Only the rows of this split
    #[arg(long, requires = "data")]
    split: Option<String>,
    #[command(flatten)]
    columns: ColumnArgs,
    /// Image files
    #[arg(long, value_name = "FILE", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Text file, one text a line
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Where to write
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// Keep the names of images in the file, absolute ones of --images; they may be names of patients
    #[arg(long)]
    keep_names: bool,
    /// Write over an existing file
    #[arg(long)]
    force: bool,
    /// Items at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    #[command(flatten)]
    precision: PrecisionArg,
}

pub(super) fn run(args: &Args) -> Result<()> {
    usage::ensure(args.data.is_some() || args.texts.is_some() || !args.images.is_empty(), || {
        "nothing to embed; name --data MANIFEST, --images FILE… or --texts FILE".into()
    })?;
    let images: Vec<PathBuf> = args.images.iter().map(|path| image::frame_of(path).0).collect();
    let files = args.data.iter().chain(&args.texts).chain(&images).map(PathBuf::as_path);
    // Of a folder of images and texts, an index is no part.
    let read = files.filter(|path| path.is_file()).chain([Path::new(&args.model)]);
    may_write_beside(&args.out, args.force, read).context("--out")?;
    if let Some(manifest) = args.data.as_ref().filter(|_| args.out.exists()) {
        let manifest = Manifest::open(manifest, &args.columns.columns(), args.image_root.as_deref())?;
        manifest.spare(&args.out).context("--out")?;
    }
    let contents = match &args.data {
        Some(manifest) => IndexContents::Manifest(Box::new(RowSource {
            manifest: manifest.clone(),
            split: args.split.clone(),
            only_blank: None,
            image_root: args.image_root.clone(),
            columns: args.columns.columns(),
        })),
        None => IndexContents::Files { images: args.images.clone(), texts: args.texts.clone() },
    };
    let model = IndexModel {
        name: &args.model,
        device: &args.device,
        precision: args.precision.precision,
        batch_size: args.batch_size as usize,
    };
    let index = build(&contents, model, args.keep_names)?;
    index.write(&args.out)?;
    let shapes: Vec<String> = index.tensors().map(|(name, t)| format!("{name} {:?}", t.dims())).collect();
    output::print(&format!("{}: {}", args.out.display(), shapes.join(", ")))
}
