//! What a run keeps of a validation to be looked at: a corner of the similarities, and examples with their images and
//! reports. These are patients' data: they stay in the run folder, and `eval.gallery = 0` keeps none.

use anyhow::Result;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::encoded::EncodedSplit;
use super::pairs::Pair;
use super::retrieval::outcomes;
use crate::data::image;
use crate::data::{ImageSource, Row};

/// Rows of the heat map.
const HEAT_ROWS: usize = 32;
/// Side of a thumbnail in pixels.
const SIDE: u32 = 160;
/// Reports shown beside each image.
const SHOWN: usize = 5;

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

impl Pictures {
    /// Of a split: a corner of its similarities, `count` evenly spaced examples, and as many of those whose own report
    /// stands last.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub(super) fn draw(split: &EncodedSplit, count: usize) -> Result<Self> {
        let reports = split.texts.t()?.contiguous()?;
        let similarities = heat_map(split, &reports)?;
        if count == 0 {
            return Ok(Self { similarities, ..Self::default() });
        }
        let ranks = outcomes(&split.images, &split.texts, &split.pairs.texts_of_image)?;
        let ranks: Vec<usize> = ranks.iter().map(|query| query.rank).collect();
        let example = |image: usize| example(split, &reports, image, ranks[image]);
        let count = count.min(ranks.len());
        let gallery = (0..count).map(|i| example(i * ranks.len() / count)).collect::<Result<_>>()?;
        let mut order: Vec<usize> = (0..ranks.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(ranks[i]));
        let hardest = order.into_iter().take(count).map(example).collect::<Result<_>>()?;
        Ok(Self { similarities, gallery, hardest })
    }
}

/// Cosines of an image with all `reports`, (embed_dim, reports).
fn scores(split: &EncodedSplit, reports: &Tensor, image: usize) -> Result<Vec<f32>> {
    Ok(split.images.narrow(0, image, 1)?.contiguous()?.matmul(reports)?.flatten_all()?.to_vec1()?)
}

/// The first pairs of which neither image nor report stands there yet, each image with each report.
fn heat_map(split: &EncodedSplit, reports: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut shown: Vec<Pair> = Vec::new();
    for pair in &split.pairs.of_row {
        if shown.len() < HEAT_ROWS && shown.iter().all(|s| s.image != pair.image && s.text != pair.text) {
            shown.push(*pair);
        }
    }
    let row = |pair: &Pair| {
        let scores = scores(split, reports, pair.image)?;
        Ok(shown.iter().map(|pair| (scores[pair.text] * 1e4).round() / 1e4).collect())
    };
    shown.iter().map(row).collect()
}

/// An image whose own report stands at place `rank`.
fn example(split: &EncodedSplit, reports: &Tensor, image: usize, rank: usize) -> Result<Example> {
    let pairs = &split.pairs;
    let scores = scores(split, reports, image)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let found = order.iter().take(SHOWN).map(|&text| Found {
        report: pairs.texts[text].to_string(),
        score: scores[text],
        right: pairs.texts_of_image[image].contains(&text),
    });
    let row: &Row = &pairs.rows[pairs.images.first_rows[image]];
    Ok(Example {
        line: row.line,
        image: thumbnail(&row.image()),
        report: row.report().to_string(),
        rank,
        gallery: pairs.texts.len(),
        found: found.collect(),
    })
}

fn thumbnail(source: &ImageSource) -> String {
    let jpeg = source.read().and_then(|picture| image::thumbnail(&picture, SIDE));
    jpeg.map_or(String::new(), |jpeg| BASE64_STANDARD.encode(jpeg))
}
