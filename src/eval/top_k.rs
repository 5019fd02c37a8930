//! Whether "a right one is among the first k" holds as often as the probabilities of the first k together say, over the
//! whole gallery.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::calibration::Prediction;
use super::encoded::EncodedSplit;
use super::figure::Figure;
use super::retrieval::{RetrievalOptions, each_query};
use crate::metrics::calibration::{Answer, BINS, equal_width, expected_error, softmax};
use crate::metrics::retrieval::{RECALL_AT, chance};
use crate::metrics::{Query, bootstrap, rank_of_best};
use crate::seed::{Purpose, stream};
use crate::session::Embeddings;

/// Of one direction of retrieval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopKFigures {
    /// image_to_text or text_to_image.
    pub direction: String,
    /// For each k the ECE and the NLL of "among the first k", as they are and after the temperature that was fitted on
    /// matching in batches, with intervals over patients; chance of the NLL: a random order whose odds are known.
    pub figures: Vec<Figure>,
}

/// What a query's softmax says of its first k, as it is and scaled, and whether a right one is there.
#[derive(Clone, Copy)]
struct Claim {
    as_is: [f64; RECALL_AT.len()],
    scaled: [f64; RECALL_AT.len()],
    rank: usize,
}

/// Both directions, with the temperatures of `matches`, fitted on the other half of the patients.
///
/// # Errors
/// Whatever the device reports.
pub(super) fn top_k(
    split: &EncodedSplit,
    matches: &[Prediction],
    options: &RetrievalOptions,
) -> Result<Vec<TopKFigures>> {
    let EncodedSplit { pairs, images, texts, .. } = split;
    let halves = pairs.halves();
    let of_half = |half: usize| {
        let own = matches.iter().find(|p: &&Prediction| halves.half(p.group) == half);
        own.map_or(1.0, |p| p.temperature)
    };
    let temperatures = [of_half(0), of_half(1)];
    let direction = |name: &str, sides: [&Embeddings; 2], relevant: &[Vec<usize>], groups: &[usize]| {
        let temperatures: Vec<f64> = groups.iter().map(|&group| temperatures[halves.half(group)]).collect();
        let found = claims(sides, relevant, split.scale, &temperatures)?;
        let figures = figures(&found, relevant, sides[1].dim(0)?, groups, options);
        anyhow::Ok(TopKFigures { direction: name.to_string(), figures })
    };
    Ok(vec![
        direction("image_to_text", [images, texts], &pairs.texts_of_image, &pairs.images.groups)?,
        direction("text_to_image", [texts, images], &pairs.images_of_text, &pairs.text_groups)?,
    ])
}

fn claims(
    [queries, gallery]: [&Embeddings; 2],
    relevant: &[Vec<usize>],
    scale: f64,
    temperatures: &[f64],
) -> Result<Vec<Claim>> {
    each_query(queries, gallery, |query, cosines| {
        let rank = rank_of_best(cosines, &relevant[query]);
        let mut scores = cosines.to_vec();
        scores.sort_by(|a, b| b.total_cmp(a));
        let logits: Vec<f64> = scores.into_iter().map(|cosine| scale * f64::from(cosine)).collect();
        let mass = |temperature: f64| {
            let p = softmax(&logits, temperature);
            RECALL_AT.map(|k| p.iter().take(k).sum::<f64>().min(1.0))
        };
        Claim { as_is: mass(1.0), scaled: mass(temperatures[query]), rank }
    })
}

fn figures(
    claims: &[Claim],
    relevant: &[Vec<usize>],
    gallery: usize,
    groups: &[usize],
    options: &RetrievalOptions,
) -> Vec<Figure> {
    let asked = |(claim, relevant): (&Claim, &Vec<usize>)| Query { rank: claim.rank, relevant: relevant.len() };
    let by_chance = chance(&claims.iter().zip(relevant).map(asked).collect::<Vec<_>>(), gallery);
    let odds = [by_chance.recall_at_1, by_chance.recall_at_5, by_chance.recall_at_10];
    let values = |claims: &[Claim]| {
        let of = |k: usize, mass: fn(&Claim) -> &[f64; RECALL_AT.len()]| {
            let answer = |c: &Claim| Answer { confidence: mass(c)[k], right: c.rank <= RECALL_AT[k] };
            let answers: Vec<Answer> = claims.iter().map(answer).collect();
            let nll = answers.iter().map(surprise).sum::<f64>() / answers.len() as f64;
            [expected_error(&equal_width(&answers, BINS)), nll]
        };
        let both = |k: usize| [of(k, |c| &c.as_is), of(k, |c| &c.scaled)].concat();
        (0..RECALL_AT.len()).flat_map(both).collect::<Vec<f64>>()
    };
    let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
    let bounds = bootstrap::interval(claims, groups, options.bootstrap, rng, values);
    let name = |(k, odds): (usize, f64)| {
        let known = -odds * odds.ln() - (1.0 - odds) * (1.0 - odds).ln();
        let known = Some(known).filter(|nll| nll.is_finite());
        [("ece", "", None), ("nll", "", known), ("ece", "_scaled", None), ("nll", "_scaled", known)]
            .map(|(figure, scaled, chance)| (format!("{figure}_top_{k}{scaled}"), chance))
    };
    let names: Vec<(String, Option<f64>)> = RECALL_AT.into_iter().zip(odds).flat_map(name).collect();
    Figure::list(names.iter().map(|(name, chance)| (name.as_str(), *chance)), values(claims), bounds)
}

/// −ln of the probability of what was so, never infinite.
fn surprise(answer: &Answer) -> f64 {
    let p = if answer.right { answer.confidence } else { 1.0 - answer.confidence };
    -p.max(f64::EPSILON).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_k_together_are_what_is_claimed() {
        // Half of the queries are right at once, half at the third place; the first k have 0.5, 0.9, 1.
        let claim = |i: usize| Claim { as_is: [0.5, 0.9, 1.0], scaled: [0.25, 1.0, 1.0], rank: [1, 3][i % 2] };
        let claims: Vec<Claim> = (0..40).map(claim).collect();
        let (relevant, groups): (Vec<Vec<usize>>, Vec<usize>) = (0..40).map(|i| (vec![i], i)).unzip();
        let options = RetrievalOptions { bootstrap: 100, loss_batch_size: 8, seed: 0 };
        let figures = figures(&claims, &relevant, 40, &groups, &options);
        let of = |name: &str| figures.iter().find(|f| f.name == name).unwrap();
        let close = |name: &str, expected: f64| assert!((of(name).value - expected).abs() < 1e-9, "{:?}", of(name));
        close("ece_top_1", 0.0);
        close("nll_top_1", 2f64.ln());
        close("ece_top_1_scaled", 0.25);
        close("nll_top_1_scaled", -(0.25f64.ln() + 0.75f64.ln()) / 2.0);
        close("ece_top_5", 0.1);
        close("nll_top_5", -0.9f64.ln());
        close("nll_top_5_scaled", 0.0);
        close("ece_top_10", 0.0);
        // One in forty is right by chance.
        let known = of("nll_top_1").chance.unwrap();
        assert!((known - (40f64.ln() - 39.0 / 40.0 * 39f64.ln())).abs() < 1e-9, "{known}");
        let (low, high) = of("nll_top_1_scaled").interval.unwrap();
        assert!(low < of("nll_top_1_scaled").value && of("nll_top_1_scaled").value < high);
    }
}
