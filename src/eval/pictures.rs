//! What a run keeps of a validation to be looked at: a corner of the similarities, and examples with their images and
//! reports. These are patients' data: they stay in the run folder, and `eval.gallery = 0` keeps none.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::retrieval::Ranked;
use crate::data::image;
use crate::data::{ImageSource, Row};
use crate::html::base64;

/// Rows of the heat map.
pub(super) const HEAT_ROWS: usize = 32;
/// Side of a thumbnail in pixels.
const SIDE: u32 = 160;
/// Reports shown beside each image.
pub(super) const SHOWN: usize = 5;

/// What is drawn of one validation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Pictures {
    /// Cosine of each of the first images with each of their reports; row i belongs to column i.
    pub similarities: Vec<Vec<f32>>,
    /// Evenly spaced examples.
    pub gallery: Vec<Example>,
    /// Those whose own report stands last.
    pub hardest: Vec<Example>,
}

/// An image with the reports that the model finds for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Example {
    /// Line of the manifest; nothing that names a patient.
    pub line: u64,
    /// JPEG in base 64; empty where it could not be read.
    pub image: String,
    /// Its own report.
    pub report: String,
    /// Where that stands among all, from 1.
    pub rank: usize,
    /// How many reports there are.
    pub gallery: usize,
    /// The first ones.
    pub found: Vec<Found>,
}

/// A report that was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    /// Its text.
    pub report: String,
    /// Cosine.
    pub score: f32,
    /// Whether it is one of the image's own.
    pub right: bool,
}

/// `count` evenly spaced examples of all images, and as many of those with the highest of `ranks`. `ranked` looks an image
/// up; `rows[i]` is the first row of image i.
pub(super) fn choose(
    ranks: &[usize],
    ranked: &dyn Fn(usize) -> Result<Ranked>,
    (rows, texts): (&[&Row], &[&str]),
    count: usize,
) -> Result<(Vec<Example>, Vec<Example>)> {
    let example = |i: usize| -> Result<Example> {
        let (r, row) = (ranked(i)?, rows[i]);
        let found = r.first.iter().map(|&(text, score)| Found {
            report: texts[text].to_string(),
            score,
            right: r.relevant.contains(&text),
        });
        Ok(Example {
            line: row.line,
            image: thumbnail(&row.image()),
            report: row.report().to_string(),
            rank: r.rank,
            gallery: texts.len(),
            found: found.collect(),
        })
    };
    let count = count.min(ranks.len());
    let spaced = (0..count).map(|i| example(i * ranks.len() / count)).collect::<Result<_>>()?;
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(ranks[i]));
    Ok((spaced, order.into_iter().take(count).map(example).collect::<Result<_>>()?))
}

fn thumbnail(source: &ImageSource) -> String {
    let jpeg = source.read().and_then(|picture| image::thumbnail(&picture, SIDE));
    jpeg.map_or(String::new(), |jpeg| base64(&jpeg))
}
