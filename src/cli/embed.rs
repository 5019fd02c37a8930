//! `reportclip embed`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::eval::{ColumnArgs, OpenModel, policy_of};
use super::output;
use crate::data::{Columns, ImageSource, Manifest, ReportPolicy, Row};
use crate::fs::replace_with;

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
    /// Items at once
    #[arg(long, default_value_t = 64)]
    batch_size: usize,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto")]
    device: String,
}

/// What an index is of, kept in its header so that `search` can name its rows. Paths, no reports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct IndexSource {
    pub model: String,
    pub manifest: Option<PathBuf>,
    pub image_root: Option<PathBuf>,
    pub split: Option<String>,
    pub columns: ColumnArgs,
    pub images: Vec<PathBuf>,
    pub texts: Option<PathBuf>,
}

impl IndexSource {
    /// The rows of the manifest that the index was made from.
    pub fn rows(&self, policy: ReportPolicy) -> Result<Vec<Row>> {
        let Some(path) = &self.manifest else { return Ok(Vec::new()) };
        let manifest = Manifest::open(path, &Columns { policy, ..self.columns.columns() }, self.image_root.as_deref())?;
        if let Some(problem) = manifest.problems.first() {
            bail!("{problem}");
        }
        Ok(match &self.split {
            Some(split) => manifest.only_split(split).rows,
            None => manifest.rows,
        })
    }

    /// The lines of the text file that the index was made from.
    pub fn lines(&self) -> Result<Vec<String>> {
        let Some(path) = &self.texts else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Ok(text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_string).collect())
    }
}

/// Largest logits_per_image that is written: 1 GiB. What is left out is one product of the two embeddings.
const MAX_LOGITS: usize = 1 << 28;

pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(args.batch_size > 0, "--batch-size is 0; allowed is 1 and more");
    ensure!(
        args.data.is_some() || args.texts.is_some() || !args.images.is_empty(),
        "nothing to embed; name --data MANIFEST, --images FILE… or --texts FILE"
    );
    let absolute = |p: &PathBuf| std::path::absolute(p).unwrap_or_else(|_| p.clone());
    let model = match Path::new(&args.model) {
        folder if folder.is_dir() => absolute(&folder.to_path_buf()).to_string_lossy().into_owned(),
        _ => args.model.clone(),
    };
    let source = IndexSource {
        model,
        manifest: args.data.as_ref().map(absolute),
        image_root: args.image_root.as_ref().map(absolute),
        split: args.split.clone(),
        columns: args.columns.clone(),
        images: args.images.iter().map(absolute).collect(),
        texts: args.texts.as_ref().map(absolute),
    };
    let (rows, lines) = (source.rows(policy_of(&args.model)?)?, source.lines()?);
    let images: Vec<ImageSource> = match source.manifest {
        Some(_) => rows.iter().map(Row::image).collect(),
        None => source.images.iter().cloned().map(ImageSource::from).collect(),
    };
    let texts: Vec<&str> = match source.manifest {
        Some(_) => rows.iter().map(Row::report).collect(),
        None => lines.iter().map(String::as_str).collect(),
    };
    ensure!(!images.is_empty() || !texts.is_empty(), "nothing to embed: there are no rows");
    let m = OpenModel::open(&args.model, &args.device)?;
    let encoder = m.encoder(args.batch_size);
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    if !images.is_empty() {
        let rows = encoder.images(&images)?;
        tensors.push(("image_embeds".into(), rows));
    }
    if !texts.is_empty() {
        let rows = encoder.texts(&texts)?;
        tensors.push(("text_embeds".into(), rows));
    }
    if images.len() * texts.len() > MAX_LOGITS {
        tracing::warn!("logits_per_image is left out: {} × {} numbers are too many", images.len(), texts.len());
    } else if let [(_, images), (_, texts)] = tensors.as_slice() {
        let scale = m.model.scale()?.to_device(&candle_core::Device::Cpu)?;
        let logits = images.matmul(&texts.t()?)?.broadcast_mul(&scale)?;
        tensors.push(("logits_per_image".into(), logits));
    }
    let metadata = [("reportclip".to_string(), serde_json::to_string(&source)?)].into();
    replace_with(&args.out, |path| {
        let views = tensors.iter().map(|(name, t)| (name.as_str(), t));
        Ok(safetensors::serialize_to_file(views, Some(metadata), path)?)
    })?;
    let shapes: Vec<String> = tensors.iter().map(|(name, t)| format!("{name} {:?}", t.dims())).collect();
    output::print(&format!("{}: {}", args.out.display(), shapes.join(", ")))
}
