//! Whether a model prefers a true sentence to the sentence that says its opposite.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::encoded::{EncodedSplit, numbers};
use super::figure::Figure;
use super::retrieval::RetrievalOptions;
use crate::data::{OppositeKind, opposites};
use crate::metrics::bootstrap;
use crate::seed::{Purpose, stream};
use crate::session::Encoder;

/// How often the true sentence of a report is nearer to its image than the opposite of it.
#[derive(Clone, Debug, Serialize)]
pub struct NegationReport {
    /// Sentences that have an opposite, by kind: `negation`, `laterality`, `size`.
    pub sentences: Vec<(&'static str, usize)>,
    /// Shares, over all of them and by kind; chance is one half, and where both are as near, that is what counts.
    pub figures: Vec<Figure>,
}

/// Every sentence of a split that has an opposite, for one model.
pub(super) struct Preferences {
    /// Kind, and 1 where the true sentence is nearer, 0 where the other is.
    items: Vec<(OppositeKind, f64)>,
    /// The patient of each.
    groups: Vec<usize>,
}

impl Preferences {
    /// Encodes each distinct sentence and opposite of the reports of `split` once.
    ///
    /// # Errors
    /// Whatever tokenizer or model report.
    pub fn of(encoder: &Encoder, split: &EncodedSplit) -> Result<Self> {
        let mut texts: Vec<String> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut number = |text: &str| {
            *known.entry(text.to_string()).or_insert_with(|| {
                texts.push(text.to_string());
                texts.len() - 1
            })
        };
        let mut found = Vec::new();
        for (row, pair) in split.pairs.rows.iter().zip(&split.pairs.of_row) {
            for opposite in opposites(row.report()) {
                let said = number(&row.report()[opposite.place.clone()]);
                found.push((opposite.opposite.kind, pair.image, said, number(&opposite.opposite.text)));
            }
        }
        if found.is_empty() {
            return Ok(Self { items: Vec::new(), groups: Vec::new() });
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (texts, images) = (numbers(&encoder.texts(&texts)?)?, numbers(&split.images)?);
        let nearness =
            |image: usize, text: usize| -> f64 { images[image].iter().zip(&texts[text]).map(|(a, b)| a * b).sum() };
        let prefers = |&(kind, image, said, opposite): &(OppositeKind, usize, usize, usize)| {
            let more = nearness(image, said) - nearness(image, opposite);
            (kind, if more == 0.0 { 0.5 } else { f64::from(u8::from(more > 0.0)) })
        };
        let items = found.iter().map(prefers).collect();
        Ok(Self { items, groups: found.iter().map(|(_, image, ..)| split.pairs.images.groups[*image]).collect() })
    }

    /// Shares with their intervals.
    pub fn report(&self, options: &RetrievalOptions) -> NegationReport {
        let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
        let bounds = bootstrap::interval(&self.items, &self.groups, options.bootstrap, rng, shares);
        let count = |kind| (OppositeKind::word(kind), self.items.iter().filter(|(k, _)| *k == kind).count());
        NegationReport {
            sentences: OppositeKind::ALL.into_iter().map(count).collect(),
            figures: Figure::list(names().iter().map(|n| (n.as_str(), Some(0.5))), shares(&self.items), bounds),
        }
    }

    /// Shares minus those of another model on the same rows, with paired intervals.
    ///
    /// # Errors
    /// The two saw different rows.
    pub fn difference(&self, other: &Self, options: &RetrievalOptions) -> Result<Vec<Figure>> {
        ensure!(self.items.len() == other.items.len(), "the two models saw different rows");
        let both: Vec<_> = self.items.iter().copied().zip(other.items.iter().copied()).collect();
        type Item = (OppositeKind, f64);
        let difference = |both: &[(Item, Item)]| -> Vec<f64> {
            let (ours, theirs): (Vec<Item>, Vec<Item>) = both.iter().copied().unzip();
            shares(&ours).into_iter().zip(shares(&theirs)).map(|(a, b)| a - b).collect()
        };
        let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
        let bounds = bootstrap::interval(&both, &self.groups, options.bootstrap, rng, difference);
        Ok(Figure::list(names().iter().map(|n| (n.as_str(), Some(0.0))), difference(&both), bounds))
    }
}

fn names() -> Vec<String> {
    let kinds = OppositeKind::WORDS.iter().copied();
    std::iter::once("all").chain(kinds).map(|kind| format!("prefers truth, {kind}")).collect()
}

/// Means over all, then by kind; NaN of none.
fn shares(items: &[(OppositeKind, f64)]) -> Vec<f64> {
    let mean = |of: &dyn Fn(OppositeKind) -> bool| {
        let chosen = items.iter().filter(|(kind, _)| of(*kind)).map(|(_, value)| value);
        chosen.clone().sum::<f64>() / chosen.count() as f64
    };
    let by_kind = OppositeKind::ALL.into_iter().map(|kind| mean(&|k| k == kind));
    std::iter::once(mean(&|_| true)).chain(by_kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_kind_with_intervals_by_patient() {
        use OppositeKind::{Laterality, Negation};
        let items = vec![(Negation, 1.0), (Negation, 0.0), (Laterality, 0.5), (Negation, 1.0)];
        let preferences = Preferences { items, groups: vec![0, 0, 1, 2] };
        let options = RetrievalOptions { bootstrap: 200, loss_batch_size: 2, seed: 1 };
        let report = preferences.report(&options);
        let values: Vec<f64> = report.figures.iter().map(|f| f.value).collect();
        assert_eq!(values[..3], [2.5 / 4.0, 2.0 / 3.0, 0.5]);
        assert!(values[3].is_nan() && report.figures[3].interval.is_none());
        let (low, high) = report.figures[0].interval.unwrap();
        assert!(low < values[0] && values[0] < high, "{low} {high}");
        assert_eq!(report.sentences, [("negation", 3), ("laterality", 1), ("size", 0)]);
        let same = preferences.difference(&preferences, &options).unwrap();
        assert_eq!((same[0].value, same[0].interval), (0.0, Some((0.0, 0.0))));
    }
}
