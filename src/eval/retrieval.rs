//! Image–text retrieval over a split, many-to-many: identical reports are one target, rows with the same image one
//! query, and within a study every image fits every report.

use anyhow::Result;
use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::calibration::{Calibration, CalibrationReport, Prediction, set_temperatures};
use super::encoded::EncodedSplit;
use super::pairs::Pair;
use super::selective::{SelectiveFigures, selective};
use crate::loss::smoothing;
use crate::metrics::calibration::fit_temperature;
use crate::metrics::ranking::Ranking;
use crate::metrics::{Query, Retrieval, bootstrap, rank_of_best, retrieval, summarise};
use crate::seed::{Purpose, stream};
use crate::session::Embeddings;

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
    /// Unsmoothed loss over whole batches of `loss_batch_size` pairs in the manifest's order.
    pub loss: f64,
    /// Pairs in each of those batches.
    pub loss_batch_size: usize,
    /// `ln` of that: the loss of a model that knows nothing.
    pub loss_chance: f64,
    /// Of the probabilities that the softmax over a batch of as many pairs gives, both directions: which report belongs
    /// to an image, which image to a report. All pairs count, in the manifest's order and in others.
    #[serde(default)]
    pub calibration: Option<CalibrationReport>,
    /// What leaving out unsure matches gives, by each score of sureness, in the manifest's order.
    #[serde(default)]
    pub selective: Vec<SelectiveFigures>,
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

/// All figures of retrieval over a split.
///
/// # Errors
/// Whatever the device reports.
pub fn retrieval_figures(split: &EncodedSplit, options: &RetrievalOptions) -> Result<RetrievalReport> {
    figures_with(split, &matched(split, options)?, options)
}

/// The same from matches that are there already.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn figures_with(
    split: &EncodedSplit,
    matched: &Matched,
    options: &RetrievalOptions,
) -> Result<RetrievalReport> {
    let EncodedSplit { pairs, images, texts, .. } = split;
    let image_to_text = direction(images, texts, &pairs.texts_of_image, &pairs.images.groups, options)?;
    let text_to_image = direction(texts, images, &pairs.images_of_text, &pairs.text_groups, options)?;
    let recalls = |d: &DirectionFigures| d.figures.recall_at_1 + d.figures.recall_at_5 + d.figures.recall_at_10;
    let mean_recall = (recalls(&image_to_text) + recalls(&text_to_image)) / 6.0;
    let loss_batch_size = options.loss_batch_size.min(pairs.rows.len());
    let rows = pairs.rows.len();
    let Matched { predictions, to_text, fitted_on, orders } = matched;
    let matches: Vec<&Prediction> = predictions.iter().collect();
    let of_direction = |wanted: bool| {
        let own = matches.iter().zip(to_text).filter(|(_, to_text)| **to_text == wanted);
        fit_temperature(own.map(|(p, _)| (p.logits.as_slice(), p.target)))
    };
    // Those of the manifest's order come first, two a pair.
    let of_whole_batches = &matches[..2 * (rows - rows % loss_batch_size)];
    Ok(RetrievalReport {
        image_to_text,
        text_to_image,
        mean_recall,
        loss: Calibration::of(of_whole_batches, false).nll,
        loss_batch_size,
        loss_chance: smoothing::chance(loss_batch_size),
        calibration: CalibrationReport::of(&matches, fitted_on, *orders)
            .map(|c| CalibrationReport { by_direction: Some((of_direction(true), of_direction(false))), ..c }),
        selective: selective(&matches[..2 * rows], (options.bootstrap, options.seed)),
        by_label: by_label(split)?,
    })
}

/// How each query's search ended, in order.
pub(super) fn outcomes(queries: &Embeddings, gallery: &Embeddings, relevant: &[Vec<usize>]) -> Result<Vec<Query>> {
    each_query(queries, gallery, |query, cosines| {
        let relevant = &relevant[query];
        Query { rank: rank_of_best(cosines, relevant), relevant: relevant.len() }
    })
}

/// What `of` makes of each query's number and its cosines with the gallery, a block of queries at a time, so that
/// memory grows with the gallery and not with its square.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn each_query<T: Send>(
    queries: &Embeddings,
    gallery: &Embeddings,
    of: impl Fn(usize, &[f32]) -> T + Sync,
) -> Result<Vec<T>> {
    const BLOCK: usize = 256;
    let (all, size, gallery) = (queries.dim(0)?, gallery.dim(0)?, gallery.t()?.contiguous()?);
    let mut found = Vec::with_capacity(all);
    for start in (0..all).step_by(BLOCK) {
        let block = queries.narrow(0, start, BLOCK.min(all - start))?.contiguous()?;
        let cosines: Vec<f32> = block.matmul(&gallery)?.flatten_all()?.to_vec1()?;
        found.par_extend(cosines.par_chunks(size).enumerate().map(|(i, cosines)| of(start + i, cosines)));
    }
    Ok(found)
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

/// Orders in which pairs are matched, so that the figures hang less on who is whose neighbour; the first is the
/// manifest's.
const ORDERS: usize = 5;
/// Fewer orders, at least one, where these would match more pairs.
const MOST_MATCHED: usize = 10_000;

/// Matches with their temperatures.
pub(super) struct Matched {
    pub predictions: Vec<Prediction>,
    /// Whether each asks for a report, else it asks for an image.
    pub to_text: Vec<bool>,
    /// What temperatures were fitted on, in words.
    pub fitted_on: String,
    /// How often each pair stands there.
    pub orders: usize,
}

/// Matches of all pairs in several orders, their temperatures fitted crosswise.
pub(super) fn matched(split: &EncodedSplit, options: &RetrievalOptions) -> Result<Matched> {
    let rows = split.pairs.rows.len();
    let orders = (MOST_MATCHED / rows).clamp(1, ORDERS);
    let found = matches(split, options.loss_batch_size.min(rows), (orders, options.seed))?;
    let (mut predictions, to_text): (Vec<Prediction>, Vec<bool>) = found.into_iter().unzip();
    let fitted_on = set_temperatures(&mut predictions, None, &split.pairs.halves());
    Ok(Matched { predictions, to_text, fitted_on, orders })
}

/// Each image with the reports of its batch, and each report with the images, over all rows in each of so many orders
/// from a seed: the mean −ln probability of the own partner is the unsmoothed symmetric loss. Where rows are left over,
/// the first of the order stand beside them, and are not asked a second time: every pair is matched among as many.
/// With each whether it asks for a report.
fn matches(split: &EncodedSplit, batch_size: usize, (orders, seed): (usize, u64)) -> Result<Vec<(Prediction, bool)>> {
    let mut all = Vec::new();
    for number in 0..orders {
        let mut order = split.pairs.of_row.clone();
        if number > 0 {
            order.shuffle(&mut stream(seed, Purpose::Matching, number as u64));
        }
        for own in order.chunks(batch_size) {
            let batch = [own, &order[..batch_size - own.len()]].concat();
            let pick = |all: &Tensor, number: fn(&Pair) -> usize| -> Result<Tensor> {
                let index: Vec<u32> = batch.iter().map(|pair| number(pair) as u32).collect();
                Ok(all.index_select(&Tensor::from_vec(index, batch_size, &Device::Cpu)?, 0)?)
            };
            let (images, texts) = (pick(&split.images, |p| p.image)?, pick(&split.texts, |p| p.text)?);
            let sims = images.matmul(&texts.t()?)?;
            for (sims, to_text) in [(&sims, true), (&sims.t()?.contiguous()?, false)] {
                let rows = sims.to_vec2::<f32>()?.into_iter().zip(own).enumerate();
                let prediction = |(target, (sims, pair)): (usize, (Vec<f32>, &Pair))| Prediction {
                    logits: sims.iter().map(|s| split.scale * f64::from(*s)).collect(),
                    target,
                    temperature: 1.0,
                    group: split.pairs.images.groups[pair.image],
                };
                all.extend(rows.map(|row| (prediction(row), to_text)));
            }
        }
    }
    Ok(all)
}

/// Queries of each direction that are ranked by label, evenly spaced where there are more.
const LABEL_QUERIES: usize = 2000;

/// `None` where not every image and report has a label, or all have one and the same.
fn by_label(split: &EncodedSplit) -> Result<Option<LabelFigures>> {
    let EncodedSplit { pairs, images, texts, .. } = split;
    let (Some(of_images), Some(of_texts)) = (&pairs.image_labels, &pairs.text_labels) else { return Ok(None) };
    if of_images.iter().chain(of_texts).all(|label| *label == of_images[0]) {
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
