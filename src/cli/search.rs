//! `reportclip search`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::manifest_args::precision;
use super::{output, usage};
use crate::config::Precision;
use crate::search::{Found, Hit, Index, Names, Query, check_model, search};
use crate::session::Session;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip search --index all.safetensors --text \"left pleural effusion\" -k 5
  reportclip search --index all.safetensors --image new.png --json

Shows reports and names of images from the manifest that the index was made of. Of an index of image files it shows
their numbers, in the order of `embed --images` from 1, and their names if `embed --keep-names` kept them. In JSON, row
is the row of the index's tensors, which count from 0, and line that of the manifest, which counts from 1.")]
pub(super) struct Args {
    /// File or folder written by `reportclip embed`
    #[arg(long, value_name = "FILE|FOLDER")]
    index: PathBuf,
    /// Text to look for among the images (among the texts where the index has no images)
    #[arg(long, required_unless_present = "image", conflicts_with = "image")]
    text: Option<String>,
    /// Image to look for among the texts (among the images where the index has no texts)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// How many to show
    #[arg(short, default_value_t = 10, value_parser = usage::count)]
    k: usize,
    /// Model folder or hub id; default the one that made the index
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: Option<String>,
    /// "auto", "cpu", "cuda" or "cuda:N"
    #[arg(long, default_value = "auto", value_parser = usage::device)]
    device: String,
    /// Operands of products, "f32" or "bf16"; default as in the index
    #[arg(long, value_parser = precision)]
    precision: Option<Precision>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let says_nothing = args.text.as_ref().is_some_and(|text| text.trim().is_empty());
    usage::ensure(!says_nothing, || "--text is empty; name what to look for".into())?;
    let query = match (&args.text, &args.image) {
        (Some(text), _) => Query::of_text(text),
        (None, Some(image)) => Query::of_image(image),
        (None, None) => bail!("name --text or --image"),
    };
    let index = Index::open(&args.index)?;
    let model = args.model.as_deref().unwrap_or(&index.source.model);
    let precision = args.precision.unwrap_or(index.source.precision);
    let session = Session::open(model, &args.device)?.in_precision(precision);
    check_model(&index.source, model, args.model.is_some()).with_context(|| args.index.display().to_string())?;
    let names = Names::read(&index);
    let found = search((&index, &names), &session, &[query], args.k);
    let found = found.with_context(|| args.index.display().to_string())?;
    let [found]: &[Found; 1] = found.as_slice().try_into()?;
    if args.json {
        return output::print_json(&serde_json::to_value(found)?);
    }
    found.hits.iter().try_for_each(|hit| output::print(&line(hit)))
}

fn line(hit: &Hit) -> String {
    let name = hit.image.as_deref().or(hit.text.as_deref()).unwrap_or_default().replace('\n', " ");
    let flag = if hit.changed { "(changed or gone since the index was made)" } else { "" };
    // Counted as the manifest and its messages count: its lines, else from 1.
    let place = hit.line.map_or(format!("row {}", hit.row + 1), |line| format!("line {line}"));
    format!("{:>3}  {:.4}  {place}  {name} {flag}", hit.rank, hit.score).trim_end().to_string()
}
