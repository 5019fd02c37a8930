//! Two models on the same pairs or images: differences of their figures with paired intervals.

use anyhow::{Result, ensure};

use super::encoded::EncodedSplit;
use super::figure::Figure;
use super::figures::ZeroShotOptions;
use super::retrieval::{RetrievalOptions, outcomes};
use super::zero_shot::Scores;
use crate::metrics::{Query, bootstrap, summarise};
use crate::seed::{Purpose, stream};

/// Figures of one model minus those of another on the same rows, both directions; the same patients are drawn for both.
///
/// # Errors
/// The two saw different rows.
pub fn retrieval_difference(
    model: &EncodedSplit,
    other: &EncodedSplit,
    options: &RetrievalOptions,
) -> Result<Vec<Figure>> {
    let pairs = &model.pairs;
    let same = pairs.images.sources == other.pairs.images.sources && pairs.texts == other.pairs.texts;
    ensure!(same, "the two models saw different rows");
    let searches = |split: &EncodedSplit| -> Result<[Vec<Query>; 2]> {
        let (images, texts) = (&split.images, &split.texts);
        Ok([outcomes(images, texts, &pairs.texts_of_image)?, outcomes(texts, images, &pairs.images_of_text)?])
    };
    let (ours, theirs) = (searches(model)?, searches(other)?);
    let mut figures = Vec::new();
    for (i, (direction, groups)) in
        [("image→text", &pairs.images.groups), ("text→image", &pairs.text_groups)].into_iter().enumerate()
    {
        let both: Vec<(Query, Query)> = ours[i].iter().copied().zip(theirs[i].iter().copied()).collect();
        let difference = |both: &[(Query, Query)]| -> Vec<f64> {
            let (a, b): (Vec<Query>, Vec<Query>) = both.iter().copied().unzip();
            let (a, b) = (summarise(&a).figures(), summarise(&b).figures());
            a.iter().zip(b).map(|((_, a), (_, b))| a - b).collect()
        };
        let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
        let bounds = bootstrap::interval(&both, groups, options.bootstrap, rng, difference);
        let names = summarise(&ours[i]).figures().map(|(name, _)| format!("{direction} {name}"));
        figures.extend(Figure::list(names.iter().map(|n| (n.as_str(), Some(0.0))), difference(&both), bounds));
    }
    Ok(figures)
}

impl Scores {
    /// Differences of the overall figures, this model's minus `other`'s on the same images, with paired intervals.
    /// Both must have been reported on, which fits their temperatures.
    ///
    /// # Errors
    /// The two saw different images or prompts.
    pub fn difference(&self, other: &Scores, options: &ZeroShotOptions) -> Result<Vec<Figure>> {
        let images = self.labelled();
        ensure!(images == other.labelled() && self.names == other.names, "the two models saw different images");
        let values = |images: &[usize]| {
            let pairs = self.values(images).into_iter().zip(other.values(images));
            pairs.map(|(a, b)| a - b).collect::<Vec<f64>>()
        };
        let bounds = self.interval(&images, options, values);
        let names = self.names(&images).into_iter().map(|(name, _)| (name, Some(0.0)));
        Ok(Figure::list(names, values(&images), bounds))
    }
}
