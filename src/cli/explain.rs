//! `reportclip explain`.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde_json::json;

use super::eval::{OpenModel, policy_of};
use super::output;
use crate::data::{Columns, Manifest, Picture, image};
use crate::eval::{Explanation, explain};
use crate::fs::replace_file;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  reportclip explain --model runs/demo/model --image scan.png --text \"Large left pleural effusion.\" --out why.png
  reportclip explain --model runs/demo/model --image scan.png --text \"右下肺斑片影\" --data pairs.csv --json

The picture is the image as the model sees it, with the patches that raise the similarity in red: gradient × attention,
rolled out over all layers. It shows what the model used, not what is true.")]
pub(super) struct Args {
    /// Model folder or hub id
    #[arg(long, value_name = "DIR|HUB_ID")]
    model: String,
    /// Image: PNG, JPEG or DICOM (scan.dcm#3 for a frame)
    #[arg(long)]
    image: PathBuf,
    /// Text
    #[arg(long)]
    text: String,
    /// Manifest whose reports the text is held against: where does it stand for this image?
    #[arg(long, value_name = "MANIFEST")]
    data: Option<PathBuf>,
    /// Where to write the picture
    #[arg(long, value_name = "FILE.png")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(!args.text.trim().is_empty(), "--text is empty");
    // Gradients of attention are kept by the CPU's kernels alone.
    let m = OpenModel::open(&args.model, "cpu")?;
    let picture = image::read(&args.image)?;
    let parts = (&m.folder.preprocess, &m.folder.tokenizer);
    let found = explain((&m.folder.config, m.params()), parts, &picture, &args.text)?;
    let place = args.data.as_deref().map(|data| place(args, &m, data)).transpose()?;
    if let Some(out) = &args.out {
        ensure!(!found.patches.is_empty(), "--out: this image tower has no attention over patches to draw");
        let seen = m.folder.preprocess.resize_and_crop(&picture, None)?;
        replace_file(out, &draw(&seen, &found)?)?;
    }
    if args.json {
        return output::print_json(&json!({
            "cosine": found.cosine, "logit": found.logit, "grid": found.grid, "patches": found.patches,
            "tokens": found.tokens, "place": place.map(|p| p.0), "gallery": place.map(|p| p.1),
        }));
    }
    let mut lines = vec![format!("cosine {:.4}, times logit_scale {:.3}", found.cosine, found.logit)];
    if let Some((place, gallery)) = place {
        lines.push(format!(
            "among {gallery} reports and this text it stands at place {place} for the image (by chance {})",
            gallery.div_ceil(2)
        ));
    }
    lines.push("token relevance, the highest 1:".into());
    for (token, value) in &found.tokens {
        lines.push(format!("  {:<20} {value:.2} {}", token, "█".repeat((value * 30.0).round() as usize)));
    }
    lines.extend(args.out.as_ref().map(|out| format!("picture: {}", out.display())));
    output::print(&lines.join("\n"))
}

/// Where the text stands for the image among a manifest's distinct reports, and how many there are.
fn place(args: &Args, m: &OpenModel, data: &Path) -> Result<(usize, usize)> {
    let columns = Columns { policy: policy_of(&args.model)?, ..Columns::default() };
    let rows = Manifest::open(data, &columns, None)?.rows;
    ensure!(!rows.is_empty(), "{}: has no usable rows", data.display());
    let distinct: std::collections::BTreeSet<&str> = rows.iter().map(|r| r.report()).collect();
    let texts: Vec<&str> = std::iter::once(args.text.as_str()).chain(distinct.iter().copied()).collect();
    let encoder = m.encoder(64);
    let image: Tensor = encoder.images(&[args.image.clone().into()])?;
    let scores: Vec<f32> = image.matmul(&encoder.texts(&texts)?.t()?.contiguous()?)?.flatten_all()?.to_vec1()?;
    let place = 1 + scores[1..].iter().filter(|s| **s > scores[0]).count();
    Ok((place, distinct.len()))
}

/// The image in gray with relevance in red, at least 448 pixels a side.
fn draw(seen: &Picture, found: &Explanation) -> Result<Vec<u8>> {
    let side = seen.width.max(448);
    let (gray, grid) = (image::gray_of_side(seen, side)?, found.grid as f32);
    let at = |row: i64, column: i64| {
        let clamp = |v: i64| v.clamp(0, found.grid as i64 - 1) as usize;
        found.patches[clamp(row) * found.grid + clamp(column)]
    };
    let mut rgb = Vec::with_capacity(gray.len() * 3);
    for (i, &light) in gray.iter().enumerate() {
        let place = |pixel: usize| (pixel as f32 + 0.5) / side as f32 * grid - 0.5;
        let (y, x) = (place(i / side as usize), place(i % side as usize));
        let (row, column) = (y.floor() as i64, x.floor() as i64);
        let (down, right) = (y - y.floor(), x - x.floor());
        let above = at(row, column) * (1.0 - right) + at(row, column + 1) * right;
        let below = at(row + 1, column) * (1.0 - right) + at(row + 1, column + 1) * right;
        let heat = 0.65 * (above * (1.0 - down) + below * down);
        let mix = |color: f32| (f32::from(light) * (1.0 - heat) + color * heat) as u8;
        rgb.extend([mix(255.0), mix(40.0), mix(20.0)]);
    }
    image::png(side, &rgb)
}
