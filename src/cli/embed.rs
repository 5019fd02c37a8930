//! `reportclip embed`.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result};

use super::manifest_args::{ColumnArgs, PrecisionArg};
use super::{output, usage};
use crate::data::dicomweb::PacsStudies;
use crate::data::image;
use crate::dist::Collective;
use crate::fs::{check_writable, may_write_beside};
use crate::model::checkpoint::spare_models;
use crate::search::{
    Filled, FolderOptions, IndexContents, IndexModel, MOST_SHARD_ROWS, ShardFormat, build, fill, is_folder,
};
use crate::session::RowSource;
use crate::train::stop;
use crate::{device, ops};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip embed --model runs/demo/model --data data/phantom/manifest.csv --out all.safetensors
  reportclip embed --model runs/demo/model --data data/phantom/manifest.csv --out index/
  reportclip embed --model runs/demo/model --data data/phantom/manifest.csv --out vectors/ --format parquet
  reportclip embed --late --model runs/demo/model --data data/phantom/manifest.csv --out late/
  reportclip embed --model runs/demo/model --images a.png b.png --out images.safetensors
  reportclip embed --model runs/demo/model --texts lines.txt --out texts.safetensors
  reportclip embed --model runs/demo/model --dicomweb https://pacs.example/dicom-web --study 1.2.840.1,1.2.840.2 \
      --out studies.safetensors

A folder is filled a shard at a time, in memory that does not grow with the number of images. After a kill or Ctrl-C the
same command goes on with the shards that are missing or whose rows have changed; under mpirun or srun the processes
share them.")]
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
    /// Address of a DICOMweb server (docs/pacs.md): images of the studies that --study and --query name; it is only
    /// read from
    #[arg(long, value_name = "URL", conflicts_with_all = ["data", "images", "texts"])]
    dicomweb: Option<String>,
    /// Study Instance UIDs, with commas between
    #[arg(long, value_name = "UID", value_delimiter = ',', requires = "dicomweb")]
    study: Vec<String>,
    /// What studies have, as QIDO-RS asks for it, such as "ModalitiesInStudy=CR&StudyDate=20250101-20250131"
    #[arg(long, value_name = "ATTRIBUTE=VALUE", requires = "dicomweb")]
    query: Option<String>,
    /// Where to write: a file, or a folder of shards (its name ends in "/")
    #[arg(long, value_name = "FILE.safetensors|FOLDER/")]
    out: PathBuf,
    /// How a folder keeps its shards: "safetensors"; "npy", laid out as clip-retrieval's; "parquet", lists of float32
    /// beside the row's ids [default: safetensors]
    #[arg(long, value_parser = format)]
    format: Option<ShardFormat>,
    /// Rows of a shard, rounded up to whole batches [default: 10000; with --late 1000]
    #[arg(long, value_name = "ROWS", value_parser = shard_rows)]
    shard_rows: Option<usize>,
    /// Keep, beside the rows' vectors, those of images' patches and of texts' tokens in 8 bits, for `search --late`: in
    /// a folder of safetensors
    #[arg(long)]
    late: bool,
    /// Keep the names of images in the file, absolute ones of --images; they may be names of patients
    #[arg(long)]
    keep_names: bool,
    /// Write over an existing file, or a folder's shards of another model or other options
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

/// Rows of a shard where nobody says: of 512 numbers, 20 MB of images.
const SHARD_ROWS: usize = 10_000;
/// With patches and tokens, of which a shard's are held at once: of 196 patches of 512 numbers, 100 MB.
const LATE_SHARD_ROWS: usize = 1000;

fn format(word: &str) -> Result<ShardFormat, String> {
    ShardFormat::find(word).ok_or_else(|| format!("allowed are {}", ShardFormat::WORDS.join(", ")))
}

fn shard_rows(text: &str) -> Result<usize, String> {
    usage::from_one(text, MOST_SHARD_ROWS)
}

impl Args {
    fn contents(&self) -> Result<IndexContents> {
        if let Some(address) = &self.dicomweb {
            let studies = PacsStudies::new(address, &self.study, self.query.as_deref());
            return Ok(IndexContents::Pacs(studies.map_err(|e| usage::wrong(&e))?.find()?));
        }
        Ok(match &self.data {
            Some(manifest) => IndexContents::Manifest(Box::new(RowSource {
                manifest: manifest.clone(),
                split: self.split.clone(),
                only_blank: None,
                image_root: self.image_root.clone(),
                columns: self.columns.of_model(&self.model)?,
            })),
            None => IndexContents::Files { images: self.images.clone(), texts: self.texts.clone() },
        })
    }

    fn is_named_as_folder(&self) -> bool {
        self.out.as_os_str().to_string_lossy().ends_with(std::path::is_separator)
    }

    fn is_of_shards(&self) -> bool {
        self.is_named_as_folder()
            || self.late
            || self.format.is_some()
            || self.shard_rows.is_some()
            || is_folder(&self.out)
    }
}

pub(super) fn run(args: &Args, world: &Rc<dyn Collective>) -> Result<()> {
    let named = args.data.is_some() || args.texts.is_some() || !args.images.is_empty() || args.dicomweb.is_some();
    usage::ensure(named, || {
        "nothing to embed; name --data MANIFEST, --images FILE…, --texts FILE or --dicomweb URL".into()
    })?;
    let model = IndexModel {
        name: &args.model,
        device: &args.device,
        precision: args.precision.precision,
        batch_size: args.batch_size as usize,
    };
    let called = args.out.extension().and_then(|ending| ShardFormat::find(&ending.to_string_lossy().to_lowercase()));
    let is_folder = args.is_named_as_folder() || args.out.is_dir();
    let place = args.out.display();
    if let Some(format) = called.filter(|_| !is_folder) {
        let (is_file, word) = (format == ShardFormat::Safetensors, format.word());
        usage::ensure(is_file, || {
            format!(
                "--out {place}: is called as a file, and a file is safetensors; name it so, or a folder, whose name \
                 ends in \"/\", with --format {word}"
            )
        })?;
        usage::ensure(!args.is_of_shards(), || {
            format!(
                "--out {place}: is called as a file, and --format, --shard-rows and --late are of folders; end its \
                 name in \"/\", or leave them out"
            )
        })?;
    }
    let other = args.format.filter(|format| args.late && *format != ShardFormat::Safetensors);
    usage::ensure(other.is_none(), || {
        let word = other.map_or("", |format| format.word());
        format!("--late: patches and tokens are kept as safetensors, not as {word}; leave --format out")
    })?;
    spare_models(&args.out).context("--out")?;
    if args.is_of_shards() { run_folder(args, model, world) } else { run_file(args, model, world) }
}

fn run_file(args: &Args, model: IndexModel, world: &Rc<dyn Collective>) -> Result<()> {
    usage::ensure(world.size() == 1, || {
        format!("a launcher started {} processes, and one writes a file; name a folder (--out FOLDER/)", world.size())
    })?;
    let images: Vec<PathBuf> = args.images.iter().map(|path| image::frame_of(path).0).collect();
    let files = args.data.iter().chain(&args.texts).chain(&images).map(PathBuf::as_path);
    // Of a folder of images and texts, an index is no part.
    let read = files.filter(|path| path.is_file()).chain([Path::new(&args.model)]);
    may_write_beside(&args.out, args.force, read).context("--out")?;
    let embedded = build(&args.contents()?, model, &args.out, args.keep_names)?;
    embedded.write(&args.out)?;
    let shapes: Vec<String> = embedded.tensors().map(|(name, t)| format!("{name} {:?}", t.dims())).collect();
    output::print(&format!("{}: {}", args.out.display(), shapes.join(", ")))
}

fn run_folder(args: &Args, model: IndexModel, world: &Rc<dyn Collective>) -> Result<()> {
    check_writable(&args.out).context("--out")?;
    device::share_cores(world.local().1, ops::online_cores())?;
    stop::listen()?;
    let options = FolderOptions {
        format: args.format.unwrap_or(ShardFormat::Safetensors),
        shard_rows: args.shard_rows.unwrap_or(if args.late { LATE_SHARD_ROWS } else { SHARD_ROWS }),
        keep_names: args.keep_names,
        late: args.late,
        force: args.force,
    };
    let filled = fill((&args.contents()?, &args.out), model, options, world.as_ref(), &stop::asked)?;
    let Filled { images, texts, shards, kept } = filled;
    let kept = if kept > 0 { format!(", {kept} of them kept") } else { String::new() };
    let with = if args.late { ", with patches and tokens" } else { "" };
    let (place, word) = (args.out.display(), if shards == 1 { "shard" } else { "shards" });
    output::print(&format!(
        "{place}: image_embeds of {images} rows, text_embeds of {texts} rows in {shards} {word}{kept}{with}"
    ))
}
