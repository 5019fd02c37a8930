//! Image–text retrieval over a split, many-to-many: identical reports are one target, rows with the same image one query,
//! and within a study every image fits every report.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::encode::{Embeddings, Encoder};
use crate::data::{ImageSource, Row};
use crate::loss::{CrossEntropy, Targets, cross_entropy, smoothing};
use crate::metrics::{Query, Retrieval, bootstrap, rank_of_best, retrieval, summarise};
use crate::seed::{Purpose, stream};

/// One direction's figures with what they must be read against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DirectionFigures {
    /// Queries asked.
    pub queries: usize,
    /// Items searched.
    pub gallery: usize,
    /// The figures.
    pub figures: Retrieval,
    /// What a random order gives on average.
    pub chance: Retrieval,
    /// 95 % interval of each figure, low and high, by bootstrap over patients (over queries where the manifest names
    /// no patient); absent below two groups.
    pub interval: Option<(Retrieval, Retrieval)>,
}

/// Both directions and the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrievalReport {
    /// Image → text.
    pub image_to_text: DirectionFigures,
    /// Text → image.
    pub text_to_image: DirectionFigures,
    /// Mean of the six recalls.
    pub mean_recall: f64,
    /// Unsmoothed loss over batches of `loss_batch_size` pairs in the manifest's order.
    pub loss: f64,
    /// Pairs in each of those batches.
    pub loss_batch_size: usize,
    /// `ln` of that: the loss of a model that knows nothing.
    pub loss_chance: f64,
}

/// How figures are worked out.
#[derive(Clone, Copy, Debug)]
pub struct RetrievalOptions {
    /// Resamples for intervals; 0 = none.
    pub bootstrap: usize,
    /// Pairs over which each loss is taken.
    pub loss_batch_size: usize,
    /// Seed of the resamples.
    pub seed: u64,
}

/// Encodes the distinct images and reports of `rows` and computes all figures.
///
/// # Errors
/// No rows; [`super::UnreadableImage`].
pub fn evaluate(encoder: &Encoder, rows: &[Row], options: &RetrievalOptions) -> Result<RetrievalReport> {
    ensure!(!rows.is_empty(), "there are no pairs to evaluate on");
    let pairs = Pairs::new(rows);
    let (images, texts) = (encoder.images(&pairs.images)?, encoder.texts(&pairs.texts)?);
    let scale = f64::from(encoder.model.scale()?.to_scalar::<f32>()?);
    let image_to_text = direction(&images, &texts, &pairs.texts_of_image, &pairs.image_groups, options)?;
    let text_to_image = direction(&texts, &images, &pairs.images_of_text, &pairs.text_groups, options)?;
    let recalls = |d: &DirectionFigures| d.figures.recall_at_1 + d.figures.recall_at_5 + d.figures.recall_at_10;
    let mean_recall = (recalls(&image_to_text) + recalls(&text_to_image)) / 6.0;
    let loss_batch_size = options.loss_batch_size.min(rows.len());
    let loss = batch_loss(&pairs, &images, &texts, scale, loss_batch_size)?;
    let loss_chance = smoothing::chance(loss_batch_size);
    Ok(RetrievalReport { image_to_text, text_to_image, mean_recall, loss, loss_batch_size, loss_chance })
}

/// The distinct images and reports of a split and who belongs to whom.
struct Pairs<'a> {
    images: Vec<ImageSource>,
    texts: Vec<&'a str>,
    /// (image, text) of each row.
    of_row: Vec<(usize, usize)>,
    texts_of_image: Vec<Vec<usize>>,
    images_of_text: Vec<Vec<usize>>,
    image_groups: Vec<usize>,
    text_groups: Vec<usize>,
}

impl<'a> Pairs<'a> {
    fn new(rows: &'a [Row]) -> Self {
        let mut images: HashMap<ImageSource, usize> = HashMap::new();
        let mut texts: HashMap<&str, usize> = HashMap::new();
        let mut patients: HashMap<&str, usize> = HashMap::new();
        let mut studies: std::collections::BTreeMap<&str, Vec<(usize, usize)>> = Default::default();
        let mut pairs = Self {
            images: Vec::new(),
            texts: Vec::new(),
            of_row: Vec::new(),
            texts_of_image: Vec::new(),
            images_of_text: Vec::new(),
            image_groups: Vec::new(),
            text_groups: Vec::new(),
        };
        let named = rows.iter().all(|r| r.patient_id().is_some());
        for row in rows {
            let image = *images.entry(row.image()).or_insert_with_key(|image| {
                pairs.images.push(image.clone());
                pairs.texts_of_image.push(Vec::new());
                pairs.images.len() - 1
            });
            let text = *texts.entry(row.report()).or_insert_with(|| {
                pairs.texts.push(row.report());
                pairs.images_of_text.push(Vec::new());
                pairs.texts.len() - 1
            });
            pairs.join(image, text);
            if let Some(study) = row.study_id() {
                studies.entry(study).or_default().push((image, text));
            }
            pairs.of_row.push((image, text));
            // A shared report or image counts for the patient of its first row.
            let next = patients.len();
            let patient = row.patient_id().map_or(0, |p| *patients.entry(p).or_insert(next));
            if pairs.image_groups.len() < pairs.images.len() {
                pairs.image_groups.push(if named { patient } else { image });
            }
            if pairs.text_groups.len() < pairs.texts.len() {
                pairs.text_groups.push(if named { patient } else { text });
            }
        }
        // Every view of a study fits every report of it.
        for study in studies.values().filter(|rows| rows.len() > 1) {
            for &(image, _) in study {
                study.iter().for_each(|&(_, text)| pairs.join(image, text));
            }
        }
        pairs
    }

    fn join(&mut self, image: usize, text: usize) {
        if !self.texts_of_image[image].contains(&text) {
            self.texts_of_image[image].push(text);
            self.images_of_text[text].push(image);
        }
    }
}

fn direction(
    queries: &Embeddings,
    gallery: &Embeddings,
    relevant: &[Vec<usize>],
    groups: &[usize],
    options: &RetrievalOptions,
) -> Result<DirectionFigures> {
    let size = gallery.dim(0)?;
    let gallery_t = gallery.t()?.contiguous()?;
    let mut outcomes = Vec::with_capacity(relevant.len());
    // A block of queries at a time, so that memory grows with the gallery and not with its square.
    const BLOCK: usize = 256;
    for start in (0..relevant.len()).step_by(BLOCK) {
        let count = BLOCK.min(relevant.len() - start);
        let scores = queries.narrow(0, start, count)?.contiguous()?.matmul(&gallery_t)?;
        let scores: Vec<f32> = scores.flatten_all()?.to_vec1()?;
        outcomes.par_extend(
            scores
                .par_chunks(size)
                .zip(&relevant[start..start + count])
                .map(|(scores, relevant)| Query { rank: rank_of_best(scores, relevant), relevant: relevant.len() }),
        );
    }
    let figures = summarise(&outcomes);
    let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
    let values = |q: &[Query]| summarise(q).figures().map(|(_, v)| v);
    let interval = bootstrap::interval(&outcomes, groups, options.bootstrap, rng, values)
        .map(|bounds| (Retrieval::from_figures(bounds.map(|b| b.0)), Retrieval::from_figures(bounds.map(|b| b.1))));
    Ok(DirectionFigures {
        queries: outcomes.len(),
        gallery: size,
        figures,
        chance: retrieval::chance(&outcomes, size),
        interval,
    })
}

/// Unsmoothed symmetric loss, mean over whole batches of rows in order.
fn batch_loss(pairs: &Pairs, images: &Embeddings, texts: &Embeddings, scale: f64, batch_size: usize) -> Result<f64> {
    let targets: Vec<i64> = (0..batch_size as i64).collect();
    let (mut sum, mut batches) = (0.0, 0);
    for rows in pairs.of_row.chunks_exact(batch_size) {
        let pick = |all: &Tensor, index: &dyn Fn(&(usize, usize)) -> usize| -> Result<Tensor> {
            let index: Vec<u32> = rows.iter().map(|r| index(r) as u32).collect();
            Ok(all.index_select(&Tensor::from_vec(index, batch_size, &Device::Cpu)?, 0)?)
        };
        let (image, text) = (pick(images, &|r| r.0)?, pick(texts, &|r| r.1)?);
        let sim_i2t = (image.matmul(&text.t()?)? * scale)?;
        for sim in [&sim_i2t, &sim_i2t.t()?.contiguous()?] {
            let loss = cross_entropy(sim, Targets::Indices(&targets), &CrossEntropy::default())?;
            sum += f64::from(loss.to_scalar::<f32>()?) / 2.0;
        }
        batches += 1;
    }
    Ok(sum / f64::from(batches))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Columns, Manifest};

    #[test]
    fn every_view_of_a_study_fits_every_report_of_it() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let path = dir.path().join("m.csv");
        let text = "image,report,study_id\na,findings,1\nb,impression,1\nc,impression,2\nd,other,\nd,more,\n";
        std::fs::write(&path, text).unwrap();
        let rows = Manifest::open(&path, &Columns::default(), None).unwrap().rows;
        let pairs = Pairs::new(&rows);
        let sorted = |lists: &[Vec<usize>]| {
            lists.iter().map(|l| l.iter().copied().collect::<std::collections::BTreeSet<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(sorted(&pairs.texts_of_image), [[0, 1].into(), [0, 1].into(), [1].into(), [2, 3].into()]);
        assert_eq!(sorted(&pairs.images_of_text), [[0, 1].into(), [0, 1, 2].into(), [3].into(), [3].into()]);
    }
}
