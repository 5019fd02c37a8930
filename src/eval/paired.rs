//! Two models on the same pairs: differences of retrieval figures with paired intervals.

use anyhow::{Result, ensure};

use super::encode::Encoder;
use super::figures::Figure;
use super::retrieval::{Pairs, RetrievalOptions, outcomes};
use crate::data::Row;
use crate::metrics::{Query, bootstrap, summarise};
use crate::seed::{Purpose, stream};

/// Figures of `model` minus those of `other` on `rows`, both directions; the same patients are drawn for both.
///
/// # Errors
/// No rows; [`super::UnreadableImage`].
pub fn retrieval_difference(
    model: &Encoder,
    other: &Encoder,
    rows: &[Row],
    options: &RetrievalOptions,
) -> Result<Vec<Figure>> {
    ensure!(!rows.is_empty(), "there are no pairs to evaluate on");
    let pairs = Pairs::new(rows);
    let [ours, theirs] = [model, other].map(|encoder| -> Result<[Vec<Query>; 2]> {
        let (images, texts) = (encoder.images(&pairs.images)?, encoder.texts(&pairs.texts)?);
        Ok([outcomes(&images, &texts, &pairs.texts_of_image)?, outcomes(&texts, &images, &pairs.images_of_text)?])
    });
    let (ours, theirs) = (ours?, theirs?);
    let mut figures = Vec::new();
    for (i, (direction, groups)) in
        [("image→text", &pairs.image_groups), ("text→image", &pairs.text_groups)].into_iter().enumerate()
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
