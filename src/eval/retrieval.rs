//! Image–text retrieval over a split, many-to-many: identical reports are one target, rows with the same image one query,
//! and within a study every image fits every report.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{CalibrationReport, Scored, set_temperatures};
use super::encode::{Embeddings, Encoder};
use super::pictures::{HEAT_ROWS, Pictures, SHOWN, choose};
use crate::data::{ImageSource, Row};
use crate::loss::smoothing;
use crate::metrics::ranking::Ranking;
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
    /// Of the probabilities that the softmax over each of those batches gives, both directions: which report belongs to
    /// an image, which image to a report.
    #[serde(default)]
    pub calibration: Option<CalibrationReport>,
    /// Rankings by label instead of by pair, where rows have labels: what shares the query's label is right.
    #[serde(default)]
    pub by_label: Option<LabelFigures>,
}

/// Both directions of retrieval by label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelFigures {
    /// Images asking for reports with their label.
    pub image_to_text: Ranking,
    /// Reports asking for images with their label.
    pub text_to_image: Ranking,
    /// What a random order gives on average: the share of the gallery that has the query's label.
    pub chance: (f64, f64),
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
    Ok(evaluate_and_draw(encoder, rows, options, 0)?.0)
}

/// [`evaluate`], and what is kept to be looked at, with `gallery` examples.
///
/// # Errors
/// As there.
pub fn evaluate_and_draw(
    encoder: &Encoder,
    rows: &[Row],
    options: &RetrievalOptions,
    gallery: usize,
) -> Result<(RetrievalReport, Pictures)> {
    ensure!(!rows.is_empty(), "there are no pairs to evaluate on");
    let pairs = Pairs::new(rows);
    let (images, texts) = (encoder.images(&pairs.images)?, encoder.texts(&pairs.texts)?);
    let scale = f64::from(encoder.model.scale()?.to_scalar::<f32>()?);
    encoder.world.from_first(|| figures(&pairs, (&images, &texts), scale, rows, options, gallery))
}

fn figures(
    pairs: &Pairs,
    (images, texts): (&Embeddings, &Embeddings),
    scale: f64,
    rows: &[Row],
    options: &RetrievalOptions,
    gallery: usize,
) -> Result<(RetrievalReport, Pictures)> {
    let image_to_text = direction(images, texts, &pairs.texts_of_image, &pairs.image_groups, options)?;
    let text_to_image = direction(texts, images, &pairs.images_of_text, &pairs.text_groups, options)?;
    let recalls = |d: &DirectionFigures| d.figures.recall_at_1 + d.figures.recall_at_5 + d.figures.recall_at_10;
    let mean_recall = (recalls(&image_to_text) + recalls(&text_to_image)) / 6.0;
    let loss_batch_size = options.loss_batch_size.min(rows.len());
    let mut matches = matches(pairs, images, texts, scale, loss_batch_size)?;
    let fitted_on = set_temperatures(&mut matches, None);
    let calibration = CalibrationReport::of(&matches.iter().collect::<Vec<_>>(), &fitted_on);
    let loss = calibration.as_ref().map_or(f64::NAN, |c| c.as_is.nll);
    let by_label = by_label(pairs, images, texts)?;
    let loss_chance = smoothing::chance(loss_batch_size);
    let pictures = pictures(pairs, images, texts, rows, gallery)?;
    let report = RetrievalReport {
        image_to_text,
        text_to_image,
        mean_recall,
        loss,
        loss_batch_size,
        loss_chance,
        calibration,
        by_label,
    };
    Ok((report, pictures))
}

/// How an image's search among all reports ended.
pub(super) struct Ranked {
    /// Place of the best own report, from 1.
    pub rank: usize,
    /// Its own reports.
    pub relevant: Vec<usize>,
    /// The first reports with their cosine.
    pub first: Vec<(usize, f32)>,
}

fn pictures(pairs: &Pairs, images: &Embeddings, texts: &Embeddings, rows: &[Row], gallery: usize) -> Result<Pictures> {
    let gallery_t = texts.t()?.contiguous()?;
    let scores = |image: usize| -> Result<Vec<f32>> {
        Ok(images.narrow(0, image, 1)?.contiguous()?.matmul(&gallery_t)?.flatten_all()?.to_vec1()?)
    };
    // Pairs of which neither image nor report stands there yet.
    let mut heat: Vec<(usize, usize)> = Vec::new();
    for &(image, text) in &pairs.of_row {
        if heat.len() < HEAT_ROWS && heat.iter().all(|(i, t)| *i != image && *t != text) {
            heat.push((image, text));
        }
    }
    let row = |&(image, _): &(usize, usize)| {
        let scores = scores(image)?;
        Ok(heat.iter().map(|&(_, text)| (scores[text] * 1e4).round() / 1e4).collect())
    };
    let similarities = heat.iter().map(row).collect::<Result<_>>()?;
    if gallery == 0 {
        return Ok(Pictures { similarities, ..Pictures::default() });
    }
    let ranks: Vec<usize> = outcomes(images, texts, &pairs.texts_of_image)?.iter().map(|q| q.rank).collect();
    let ranked = |image: usize| -> Result<Ranked> {
        let scores = scores(image)?;
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let first = order.iter().take(SHOWN).map(|&text| (text, scores[text])).collect();
        Ok(Ranked { rank: ranks[image], relevant: pairs.texts_of_image[image].clone(), first })
    };
    let mut first_rows: Vec<Option<&Row>> = vec![None; pairs.images.len()];
    pairs.of_row.iter().zip(rows).rev().for_each(|(&(image, _), row)| first_rows[image] = Some(row));
    let first_rows: Vec<&Row> = first_rows.into_iter().flatten().collect();
    let (gallery, hardest) = choose(&ranks, &ranked, (&first_rows, &pairs.texts), gallery)?;
    Ok(Pictures { similarities, gallery, hardest })
}

/// The distinct images and reports of a split and who belongs to whom.
pub(super) struct Pairs<'a> {
    pub images: Vec<ImageSource>,
    pub texts: Vec<&'a str>,
    /// (image, text) of each row.
    of_row: Vec<(usize, usize)>,
    pub texts_of_image: Vec<Vec<usize>>,
    pub images_of_text: Vec<Vec<usize>>,
    pub image_groups: Vec<usize>,
    pub text_groups: Vec<usize>,
    /// Of the first row of each, where every row has one.
    image_labels: Vec<&'a str>,
    text_labels: Vec<&'a str>,
}

impl<'a> Pairs<'a> {
    pub fn new(rows: &'a [Row]) -> Self {
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
            image_labels: Vec::new(),
            text_labels: Vec::new(),
        };
        let named = rows.iter().all(|r| r.patient_id().is_some());
        for row in rows {
            let image = *images.entry(row.image()).or_insert_with_key(|image| {
                pairs.images.push(image.clone());
                pairs.texts_of_image.push(Vec::new());
                pairs.image_labels.extend(row.label());
                pairs.images.len() - 1
            });
            let text = *texts.entry(row.report()).or_insert_with(|| {
                pairs.texts.push(row.report());
                pairs.images_of_text.push(Vec::new());
                pairs.text_labels.extend(row.label());
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

/// How each query's search ended, in order.
pub(super) fn outcomes(queries: &Embeddings, gallery: &Embeddings, relevant: &[Vec<usize>]) -> Result<Vec<Query>> {
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
    Ok(outcomes)
}

fn direction(
    queries: &Embeddings,
    gallery: &Embeddings,
    relevant: &[Vec<usize>],
    groups: &[usize],
    options: &RetrievalOptions,
) -> Result<DirectionFigures> {
    let size = gallery.dim(0)?;
    let outcomes = outcomes(queries, gallery, relevant)?;
    let figures = summarise(&outcomes);
    let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
    let values = |q: &[Query]| summarise(q).figures().map(|(_, v)| v).to_vec();
    let interval = bootstrap::interval(&outcomes, groups, options.bootstrap, rng, values).map(|bounds| {
        let bound = |pick: fn(&(f64, f64)) -> f64| Retrieval::from_figures(std::array::from_fn(|k| pick(&bounds[k])));
        (bound(|b| b.0), bound(|b| b.1))
    });
    Ok(DirectionFigures {
        queries: outcomes.len(),
        gallery: size,
        figures,
        chance: retrieval::chance(&outcomes, size),
        interval,
    })
}

/// Each image with the reports of its batch, and each report with the images, over whole batches of rows in order: the
/// mean −ln probability of the own partner is the unsmoothed symmetric loss.
fn matches(
    pairs: &Pairs,
    images: &Embeddings,
    texts: &Embeddings,
    scale: f64,
    batch_size: usize,
) -> Result<Vec<Scored>> {
    let mut all = Vec::new();
    for rows in pairs.of_row.chunks_exact(batch_size) {
        let pick = |all: &Tensor, index: &dyn Fn(&(usize, usize)) -> usize| -> Result<Tensor> {
            let index: Vec<u32> = rows.iter().map(|r| index(r) as u32).collect();
            Ok(all.index_select(&Tensor::from_vec(index, batch_size, &Device::Cpu)?, 0)?)
        };
        let (image, text) = (pick(images, &|r| r.0)?, pick(texts, &|r| r.1)?);
        let sims = image.matmul(&text.t()?)?;
        for sims in [&sims, &sims.t()?.contiguous()?] {
            let rows = sims.to_vec2::<f32>()?.into_iter().zip(rows).enumerate();
            all.extend(rows.map(|(target, (sims, &(image, _)))| Scored {
                logits: sims.iter().map(|s| scale * f64::from(*s)).collect(),
                target,
                temperature: 1.0,
                group: pairs.image_groups[image],
            }));
        }
    }
    Ok(all)
}

/// Queries of each direction that are ranked by label, evenly spaced where there are more.
const LABEL_QUERIES: usize = 2000;

/// `None` where not every row has a label, or all have one.
fn by_label(pairs: &Pairs, images: &Embeddings, texts: &Embeddings) -> Result<Option<LabelFigures>> {
    let (of_images, of_texts) = (&pairs.image_labels, &pairs.text_labels);
    let kinds: std::collections::HashSet<&&str> = of_images.iter().chain(of_texts).collect();
    if of_images.len() < pairs.images.len() || of_texts.len() < pairs.texts.len() || kinds.len() < 2 {
        return Ok(None);
    }
    let ranked = |queries: &Tensor, gallery: &Tensor, wanted: &[&str], labels: &[&str]| -> Result<(Ranking, f64)> {
        // Each query sorts the gallery: of many, some are enough.
        let asked: Vec<u32> =
            (0..wanted.len()).step_by(wanted.len().div_ceil(LABEL_QUERIES).max(1)).map(|i| i as u32).collect();
        let queries = queries.index_select(&Tensor::new(asked.as_slice(), &Device::Cpu)?, 0)?;
        let scores: Vec<Vec<f32>> = queries.matmul(&gallery.t()?.contiguous()?)?.to_vec2()?;
        let of_query = |(query, scores): (&u32, &Vec<f32>)| {
            let scores: Vec<f64> = scores.iter().copied().map(f64::from).collect();
            let alike: Vec<bool> = labels.iter().map(|l| *l == wanted[*query as usize]).collect();
            let share = alike.iter().filter(|a| **a).count() as f64 / alike.len() as f64;
            Some((Ranking::of_query(&scores, &alike)?, share))
        };
        let found: Vec<(Ranking, f64)> = asked.par_iter().zip(&scores).filter_map(of_query).collect();
        let shares = found.iter().map(|(_, share)| share).sum::<f64>() / found.len() as f64;
        Ok((Ranking::mean(&found.into_iter().map(|(r, _)| r).collect::<Vec<_>>()), shares))
    };
    let (image_to_text, chance_of_texts) = ranked(images, texts, of_images, of_texts)?;
    let (text_to_image, chance_of_images) = ranked(texts, images, of_texts, of_images)?;
    Ok(Some(LabelFigures { image_to_text, text_to_image, chance: (chance_of_texts, chance_of_images) }))
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
