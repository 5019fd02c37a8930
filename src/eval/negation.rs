//! Whether a model prefers a true sentence to the sentence that says its opposite.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Result, ensure};
use rand::seq::SliceRandom;
use serde::Serialize;

use super::encoded::{EncodedSplit, numbers};
use super::figure::Figure;
use super::pairs::cases;
use super::retrieval::RetrievalOptions;
use crate::data::{Opposite, OppositeKind, opposites};
use crate::metrics::bootstrap;
use crate::seed::{Purpose, stream};
use crate::session::Encoder;

/// How often the true sentence of a report is nearer to its image than the opposite of it.
#[derive(Clone, Debug, Serialize)]
pub struct NegationReport {
    /// Sentences that have an opposite, by kind: `negation`, `laterality`, `size`.
    pub sentences: Vec<(&'static str, usize)>,
    /// Shares, over all of them and by kind; of negations those that deny, those that affirm, and the mean of these
    /// two. Chance is one half, and where both are as near, that is what counts.
    pub figures: Vec<Figure>,
    /// The same of the same sentences, each held against an image of another patient (where none is named, of another
    /// study, or of another report): what a model comes to that does not look at the image. `None` where more than
    /// half of the images are of one.
    pub of_others: Option<Vec<Figure>>,
    /// Those minus these, paired: what comes of looking.
    pub over_others: Option<Vec<Figure>>,
}

/// Kind, whether the true sentence denies, and 1 where that is nearer, 0 where the other is.
type Item = (OppositeKind, bool, f64);

/// Every sentence of a split that has an opposite, for one model.
pub(super) struct Preferences {
    items: Vec<Item>,
    /// The same beside images of other patients.
    of_others: Option<Vec<Item>>,
    /// The patient of each.
    groups: Vec<usize>,
}

impl Preferences {
    /// Encodes each distinct sentence and opposite of the reports of `split` once. `seed` says which patient stands in
    /// for which.
    ///
    /// # Errors
    /// Whatever tokenizer or model report.
    pub fn of(encoder: &Encoder, split: &EncodedSplit, seed: u64) -> Result<Self> {
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
                let Opposite { kind, of_denial, text } = &opposite.opposite;
                found.push(((*kind, *of_denial), pair.image, said, number(text)));
            }
        }
        if found.is_empty() {
            return Ok(Self { items: Vec::new(), of_others: None, groups: Vec::new() });
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (texts, images) = (numbers(&encoder.texts(&texts)?)?, numbers(&split.images)?);
        let nearness =
            |image: usize, text: usize| -> f64 { images[image].iter().zip(&texts[text]).map(|(a, b)| a * b).sum() };
        let prefers = |kind: (OppositeKind, bool), image: usize, said: usize, opposite: usize| {
            let more = nearness(image, said) - nearness(image, opposite);
            (kind.0, kind.1, if more == 0.0 { 0.5 } else { f64::from(u8::from(more > 0.0)) })
        };
        let items = |stands_in: &dyn Fn(usize) -> usize| -> Vec<Item> {
            found.iter().map(|&(kind, image, said, opposite)| prefers(kind, stands_in(image), said, opposite)).collect()
        };
        let (groups, images) = (&split.pairs.images.groups, &split.pairs.images);
        let cases = cases(images.first_rows.iter().map(|&row| &split.pairs.rows[row]));
        let of_others = others(&cases, seed).map(|others| items(&|image| others[image]));
        let groups = found.iter().map(|(_, image, ..)| groups[*image]).collect();
        Ok(Self { items: items(&|image| image), of_others, groups })
    }

    /// Shares with their intervals.
    pub fn report(&self, options: &RetrievalOptions) -> NegationReport {
        let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
        let figures = |items: &Vec<Item>| {
            let bounds = bootstrap::interval(items, &self.groups, options.bootstrap, rng, shares);
            Figure::list(names().iter().map(|n| (n.as_str(), Some(0.5))), shares(items), bounds)
        };
        let count = |kind| (OppositeKind::word(kind), self.items.iter().filter(|(k, ..)| *k == kind).count());
        NegationReport {
            sentences: OppositeKind::ALL.into_iter().map(count).collect(),
            figures: figures(&self.items),
            of_others: self.of_others.as_ref().map(figures),
            over_others: self.of_others.as_ref().map(|others| self.minus(others, options)),
        }
    }

    /// Shares minus those of another model on the same rows, with paired intervals.
    ///
    /// # Errors
    /// The two saw different rows.
    pub fn difference(&self, other: &Self, options: &RetrievalOptions) -> Result<Vec<Figure>> {
        ensure!(self.items.len() == other.items.len(), "the two models saw different rows");
        Ok(self.minus(&other.items, options))
    }

    /// Shares minus those of the same sentences as `others` have them, with paired intervals.
    fn minus(&self, others: &[Item], options: &RetrievalOptions) -> Vec<Figure> {
        let both: Vec<_> = self.items.iter().copied().zip(others.iter().copied()).collect();
        let difference = |both: &[(Item, Item)]| -> Vec<f64> {
            let (ours, theirs): (Vec<Item>, Vec<Item>) = both.iter().copied().unzip();
            shares(&ours).into_iter().zip(shares(&theirs)).map(|(a, b)| a - b).collect()
        };
        let rng = |i: u64| stream(options.seed, Purpose::Bootstrap, i);
        let bounds = bootstrap::interval(&both, &self.groups, options.bootstrap, rng, difference);
        Figure::list(names().iter().map(|n| (n.as_str(), Some(0.0))), difference(&both), bounds)
    }
}

/// For each image one of another patient, and each stands in for one, whose numbers are `groups`: patients in a random
/// order, so that neighbours of a sorted manifest do not meet, each image moved on by as many as the largest patient
/// has. `None` where one has more than half of all.
fn others(groups: &[usize], seed: u64) -> Option<Vec<usize>> {
    let mut images: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    groups.iter().enumerate().for_each(|(image, group)| images.entry(*group).or_default().push(image));
    let mut patients: Vec<Vec<usize>> = images.into_values().collect();
    let most = patients.iter().map(Vec::len).max().unwrap_or(0);
    patients.shuffle(&mut stream(seed, Purpose::OtherPatients, 0));
    let order = patients.concat();
    let mut others = vec![0; groups.len()];
    (0..order.len()).for_each(|at| others[order[at]] = order[(at + most) % order.len()]);
    (2 * most <= order.len()).then_some(others)
}

fn names() -> Vec<String> {
    let kinds = OppositeKind::WORDS.iter().copied();
    let by_direction = ["negation of denials", "negation of what is affirmed", "negation, mean of these two"];
    std::iter::once("all").chain(kinds).chain(by_direction).map(|kind| format!("prefers truth, {kind}")).collect()
}

/// Means over all, then by kind, then of negations by what the true sentence does; NaN of none.
///
/// Most reports deny more than they affirm, so that who always prefers a denial, blind to the image, is often right:
/// in the mean of the two directions that is one half.
fn shares(items: &[Item]) -> Vec<f64> {
    let mean = |of: &dyn Fn(OppositeKind, bool) -> bool| {
        let chosen = items.iter().filter(|(kind, denies, _)| of(*kind, *denies)).map(|(.., value)| value);
        chosen.clone().sum::<f64>() / chosen.count() as f64
    };
    let by_kind = OppositeKind::ALL.into_iter().map(|kind| mean(&|k, _| k == kind));
    let [denied, affirmed] =
        [true, false].map(|wanted| mean(&|k, denies| k == OppositeKind::Negation && denies == wanted));
    let by_direction = [denied, affirmed, (denied + affirmed) / 2.0];
    std::iter::once(mean(&|_, _| true)).chain(by_kind).chain(by_direction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_kind_with_intervals_by_patient() {
        use OppositeKind::{Laterality, Negation};
        let items =
            vec![(Negation, true, 1.0), (Negation, false, 0.0), (Laterality, false, 0.5), (Negation, true, 1.0)];
        let of_others =
            Some(items.iter().map(|&(kind, denies, _)| (kind, denies, f64::from(u8::from(denies)))).collect());
        let preferences = Preferences { items, of_others, groups: vec![0, 0, 1, 2] };
        let options = RetrievalOptions { bootstrap: 200, loss_batch_size: 2, seed: 1 };
        let report = preferences.report(&options);
        let values: Vec<f64> = report.figures.iter().map(|f| f.value).collect();
        assert_eq!(values[..3], [2.5 / 4.0, 2.0 / 3.0, 0.5]);
        assert_eq!(values[4..], [1.0, 0.0, 0.5], "who prefers every denial knows nothing");
        let blind: Vec<f64> = report.of_others.as_ref().unwrap().iter().map(|f| f.value).collect();
        assert_eq!(blind[..3], [0.5, 2.0 / 3.0, 0.0], "who sees other images");
        let gained = &report.over_others.as_ref().unwrap()[0];
        assert!((gained.value - (values[0] - blind[0])).abs() < 1e-12 && gained.interval.is_some(), "{gained:?}");
        assert!(values[3].is_nan() && report.figures[3].interval.is_none());
        let (low, high) = report.figures[0].interval.unwrap();
        assert!(low < values[0] && values[0] < high, "{low} {high}");
        assert_eq!(report.sentences, [("negation", 3), ("laterality", 1), ("size", 0)]);
        let same = preferences.difference(&preferences, &options).unwrap();
        assert_eq!((same[0].value, same[0].interval), (0.0, Some((0.0, 0.0))));
    }
    #[test]
    fn each_image_stands_in_for_one_of_another_patient() {
        for groups in [vec![0, 1], vec![0, 0, 1, 1], vec![3, 0, 0, 3, 1, 2, 0, 5, 5], (0..50).map(|i| i / 7).collect()]
        {
            let others = others(&groups, 4).unwrap();
            assert!(others.iter().enumerate().all(|(image, other)| groups[image] != groups[*other]), "{groups:?}");
            let mut sorted = others.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..groups.len()).collect::<Vec<_>>());
            assert_eq!(others, super::others(&groups, 4).unwrap());
        }
        assert_eq!(others(&[0, 0, 1], 4), None);
        assert_eq!(others(&[0], 4), None);
    }
}
