//! `reportclip search`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use serde_json::{Value, json};

use super::embed::IndexSource;
use super::eval::OpenModel;
use super::output;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip search --index all.safetensors --text \"left pleural effusion\" -k 5
  reportclip search --index all.safetensors --image new.png --json")]
pub(super) struct Args {
    /// File written by `reportclip embed`
    #[arg(long, value_name = "FILE.safetensors")]
    index: PathBuf,
    /// Text to look for among the images (among the texts where the index has no images)
    #[arg(long, required_unless_present = "image", conflicts_with = "image")]
    text: Option<String>,
    /// Image to look for among the texts (among the images where the index has no texts)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// How many to show
    #[arg(short, default_value_t = 10)]
    k: usize,
    /// Model folder or hub id; default the one that made the index
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<String>,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto")]
    device: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let bytes = std::fs::read(&args.index).with_context(|| format!("index {}", args.index.display()))?;
    let broken = || format!("index {}: not written by `reportclip embed`", args.index.display());
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).with_context(broken)?;
    let source = header.metadata().as_ref().and_then(|m| m.get("reportclip")).with_context(broken)?;
    let source: IndexSource = serde_json::from_str(source).with_context(broken)?;
    let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).with_context(broken)?;
    let order = if args.text.is_some() { ["image_embeds", "text_embeds"] } else { ["text_embeds", "image_embeds"] };
    let found = order.into_iter().find_map(|name| tensors.remove(name).map(|t| (name, t)));
    let Some((kind, gallery)) = found else { bail!("{}", broken()) };

    let m = OpenModel::open(args.model.as_deref().unwrap_or(&source.model), &args.device)?;
    let query = match (&args.text, &args.image) {
        (Some(text), _) => m.encoder(1).texts(&[text])?,
        (None, Some(image)) => m.encoder(1).images(&[image.clone().into()])?,
        (None, None) => bail!("name --text or --image"),
    };
    if gallery.dim(1)? != query.dim(1)? {
        bail!("{}: has embeddings of width {}, the model {}", args.index.display(), gallery.dim(1)?, query.dim(1)?);
    }
    let scores: Vec<f32> = gallery.matmul(&query.t()?)?.flatten_all()?.to_vec1()?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(args.k);
    let names = Names::read(&source, kind);
    let hits: Vec<Value> = order
        .iter()
        .enumerate()
        .map(|(i, &row)| {
            let mut hit = json!({"rank": i + 1, "score": scores[row], "row": row});
            names.add_to(&mut hit, row);
            hit
        })
        .collect();
    if args.json {
        return output::print_json(&json!({"searched": kind, "gallery": scores.len(), "hits": hits}));
    }
    for hit in &hits {
        let name = hit["image"].as_str().or(hit["text"].as_str()).unwrap_or_default().replace('\n', " ");
        let line =
            format!("{:>3}  {:.4}  row {}  {name}", hit["rank"], hit["score"].as_f64().unwrap_or(0.0), hit["row"]);
        output::print(line.trim_end())?;
    }
    Ok(())
}

/// What the rows of an index are called, as far as the files that it was made from are still there.
struct Names {
    images: Vec<String>,
    texts: Vec<String>,
}

impl Names {
    fn read(source: &IndexSource, kind: &str) -> Self {
        let rows = source.rows(Default::default()).unwrap_or_else(|e| {
            tracing::warn!(
                "the index's manifest cannot be read, so rows have numbers only: {}",
                crate::error::one_line(&e)
            );
            Vec::new()
        });
        let mut images: Vec<String> = rows.iter().map(|r| r.image().to_string()).collect();
        images.extend(source.images.iter().map(|path| path.display().to_string()));
        let mut texts: Vec<String> = rows.iter().map(|r| r.report().to_string()).collect();
        texts.extend(source.lines().unwrap_or_default());
        if kind == "text_embeds" && source.manifest.is_none() {
            images.clear();
        }
        Self { images, texts }
    }

    fn add_to(&self, hit: &mut Value, row: usize) {
        if let Some(image) = self.images.get(row) {
            hit["image"] = json!(image);
        }
        if let Some(text) = self.texts.get(row) {
            hit["text"] = json!(text);
        }
    }
}
