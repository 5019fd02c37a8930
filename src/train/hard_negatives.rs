//! Negatives that are hard to tell from what is right, mined over the whole training set with the model as it stands.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::readable::readable_images;
use super::trainer::Trainer;
use crate::data::{HardFrom, HardNegatives, KeptReports, NO_ROW, Neighbours, OnError, Row};
use crate::session::Encoder;
use crate::track::{Event, Note};

impl Trainer<'_> {
    /// Whether negatives are mined at all.
    pub(super) fn mines(&self) -> bool {
        self.state.neighbours.is_some()
    }

    /// Whether they are to be mined at this step.
    pub(super) fn mining_is_due(&self) -> bool {
        self.mines() && self.step_number().is_multiple_of(self.plan.mine_every)
    }

    /// The step at which they are mined next, or the end.
    pub(super) fn mined_until(&self) -> u64 {
        let every = self.plan.mine_every;
        let next = (self.step_number() / every).saturating_add(1).saturating_mul(every);
        if self.mines() { next.min(self.plan.total_steps) } else { self.plan.total_steps }
    }

    /// Finds the hardest negatives of each training row anew.
    pub(super) fn mine(&mut self) -> Result<()> {
        let found = self.hardest().context("mining hard negatives")?;
        let has_none = |lists: &[u32]| lists.iter().all(|&row| row == NO_ROW);
        let before = self.state.neighbours.as_ref().filter(|before| !before.rows.is_empty());
        if has_none(&found.rows) && !before.is_some_and(|before| has_none(&before.rows)) {
            let line = "data.hard_negatives: no row has one, so batches are as without them: all others are alike it \
                        (by report, study or label), or nearer than data.hard_negatives.margin lets them be";
            self.emit(&Event::Note(Note::warning(line)))?;
        }
        self.state.neighbours = Some(Arc::new(found));
        self.hand_to_sampler();
        Ok(())
    }

    /// Lets the order of rows know what was mined last.
    pub(super) fn hand_to_sampler(&self) {
        if let Some(neighbours) = &self.state.neighbours {
            self.plan.sampler.meet(Arc::clone(neighbours), self.plan.mine_every);
        }
    }

    fn hardest(&self) -> Result<Neighbours> {
        let rows = &self.train.rows;
        let settings = &self.config.data.hard_negatives;
        let encoder = self.encoder(&*self.world)?;
        // An image that cannot be read is told of when its turn in a step comes; here it is no negative of others.
        let (readable, images) = match self.images_kept(&encoder)? {
            Some(found) => found,
            None => {
                let all: Vec<&Row> = rows.iter().collect();
                readable_images(&encoder, &all, self.config.data.on_error)?
            }
        };
        let texts = match &self.train.reports {
            Some(kept) => self.texts_kept(&encoder, kept, &readable)?,
            None => texts_of(&encoder, readable.iter().map(|&row| &rows[row as usize]))?,
        };
        let known: Vec<Known> = readable.iter().map(|&row| Known::of(&rows[row as usize])).collect();
        let own = self.world.share(readable.len());
        let (queries, candidates) = match settings.from {
            HardFrom::Text => (&images, &texts),
            HardFrom::Image => (&texts, &images),
        };
        let found = nearest((queries, candidates), own, &known, settings)?;
        let (found, _) = self.world.gather_numbers(&found)?;
        let mut all = vec![NO_ROW; rows.len() * settings.k];
        for (place, list) in found.chunks_exact(settings.k).enumerate() {
            let start = readable[place] as usize * settings.k;
            for (slot, &other) in list.iter().filter(|&&other| other != NO_ROW).enumerate() {
                all[start + slot] = readable[other as usize];
            }
        }
        Ok(Neighbours { rows: all, each: settings.k })
    }

    /// The rows whose image's features are kept, and their embeddings, (rows, embed_dim), made from these; `None` where
    /// none are kept, or rows have several images.
    fn images_kept(&self, encoder: &Encoder) -> Result<Option<(Vec<u32>, Tensor)>> {
        let count = self.train.rows.len();
        let Some(kept) = self.train.features.as_ref().filter(|kept| kept.slots.are_of_single_images()) else {
            return Ok(None);
        };
        // Each host has its own file.
        let missing: Vec<u32> = kept.cache.missing().into_iter().map(|row| row as u32).collect();
        let (missing, _) = self.world.gather_numbers(&missing)?;
        let missing: HashSet<u32> = missing.into_iter().collect();
        // What cannot be read is told of by the way through the files, where it stops the run.
        if !missing.is_empty() && self.config.data.on_error == OnError::Stop {
            return Ok(None);
        }
        let readable: Vec<u32> = (0..count as u32).filter(|row| !missing.contains(row)).collect();
        if readable.is_empty() {
            return Ok(None);
        }
        let width = self.folder.config.vision.width();
        let features = |batch: Range<usize>| {
            let mut numbers = Vec::new();
            for &row in &readable[batch] {
                ensure!(kept.cache.read(row as usize, &mut numbers)?, "{}: row {row} is gone", kept.cache.place());
            }
            let x = Tensor::from_slice(&numbers, (numbers.len() / width, width), &self.device)?;
            Ok(encoder.model.image_features_above(x, self.frozen.image())?)
        };
        let images = encoder.embeddings(readable.len(), "image features", features)?;
        Ok(Some((readable, images)))
    }

    /// Embeddings of the reports of these rows, (rows, embed_dim), from what is kept of them.
    fn texts_kept(&self, encoder: &Encoder, kept: &KeptReports, rows: &[u32]) -> Result<Tensor> {
        encoder.embeddings(rows.len(), "text features", |batch| {
            let rows: Vec<usize> = rows[batch].iter().map(|&row| row as usize).collect();
            let states =
                Tensor::from_vec(kept.read(&rows)?, (rows.len(), self.folder.config.text.width()), &self.device)?;
            Ok(encoder.model.project_text(&states.into())?)
        })
    }
}

/// Embeddings of each row's report, each distinct one encoded once.
fn texts_of<'a>(encoder: &Encoder, rows: impl Iterator<Item = &'a Row>) -> Result<Tensor> {
    let (mut known, mut texts) = (HashMap::new(), Vec::new());
    let number = |row: &'a Row| {
        *known.entry(row.report()).or_insert_with(|| {
            texts.push(row.report());
            texts.len() as u32 - 1
        })
    };
    let of_row: Vec<u32> = rows.map(number).collect();
    Ok(encoder.texts(&texts)?.index_select(&Tensor::new(of_row, &Device::Cpu)?, 0)?)
}

/// What of a row says that another is no negative of it.
struct Known<'a> {
    report: &'a str,
    study: Option<&'a str>,
    labels: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    fn of(row: &'a Row) -> Self {
        Self { report: row.report(), study: row.study_id(), labels: row.labels().collect() }
    }

    /// With one report, of one study, or with one finding.
    fn is_alike(&self, other: &Self) -> bool {
        let one_study = self.study.is_some() && self.study == other.study;
        self.report == other.report || one_study || !self.labels.is_disjoint(&other.labels)
    }
}

/// Of each row of `own` the `k` nearest candidates that are not alike it or one another, the nearest first; [`NO_ROW`]
/// where there are fewer. (own · k)
fn nearest(
    (queries, candidates): (&Tensor, &Tensor),
    own: Range<usize>,
    known: &[Known],
    settings: &HardNegatives,
) -> Result<Vec<u32>> {
    const NUMBERS_AT_ONCE: usize = 1 << 24;
    let (count, transposed) = (candidates.dim(0)?, candidates.t()?.contiguous()?);
    let block = (NUMBERS_AT_ONCE / count.max(1)).max(1);
    let mut all = Vec::with_capacity(own.len() * settings.k);
    for start in own.clone().step_by(block) {
        let rows = block.min(own.end - start);
        let similarities: Vec<Vec<f32>> = queries.narrow(0, start, rows)?.matmul(&transposed)?.to_vec2()?;
        let of_row = |(i, similarities): (usize, &Vec<f32>)| hardest_of(start + i, similarities, known, settings);
        all.extend(similarities.par_iter().enumerate().map(of_row).collect::<Vec<_>>().concat());
    }
    Ok(all)
}

fn hardest_of(row: usize, similarities: &[f32], known: &[Known], settings: &HardNegatives) -> Vec<u32> {
    let most = settings.margin.map_or(f32::INFINITY, |margin| similarities[row] - margin as f32);
    let mut order: Vec<u32> = (0..similarities.len() as u32).filter(|&k| similarities[k as usize] <= most).collect();
    // Equal ones in the order of rows, whatever the number of ranks.
    let nearer = |a: &u32, b: &u32| similarities[*b as usize].total_cmp(&similarities[*a as usize]).then(a.cmp(b));
    // Only the nearest are put in order: more of them where too many are alike.
    let mut among = 4 * settings.k + 32;
    loop {
        among = among.min(order.len());
        if among < order.len() {
            order.select_nth_unstable_by(among, nearer);
        }
        order[..among].sort_unstable_by(nearer);
        let mut found: Vec<u32> = Vec::with_capacity(settings.k);
        for &one in &order[..among] {
            let is_alike = |other: usize| known[one as usize].is_alike(&known[other]);
            let free = one as usize != row && !is_alike(row) && !found.iter().any(|&other| is_alike(other as usize));
            if free && found.len() < settings.k {
                found.push(one);
            }
        }
        if found.len() == settings.k || among == order.len() {
            found.resize(settings.k, NO_ROW);
            return found;
        }
        among *= 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known<'a>(report: &'a str, study: Option<&'a str>, labels: &[&'a str]) -> Known<'a> {
        Known { report, study, labels: labels.iter().copied().collect() }
    }

    #[test]
    fn the_nearest_that_are_not_alike_and_not_too_near() {
        let rows = [
            known("a", Some("1"), &["effusion"]),
            known("b", Some("2"), &["edema", "effusion"]),
            known("c", Some("1"), &[]),
            known("a", None, &[]),
            known("d", None, &["edema"]),
            known("e", None, &[]),
        ];
        let similarities = [0.8, 0.9, 0.9, 0.9, 0.5, 0.7];
        let settings = |k, margin| HardNegatives { k, margin, ..HardNegatives::default() };
        let found = |k, margin| hardest_of(0, &similarities, &rows, &settings(k, margin));
        assert_eq!(found(2, None), [5, 4], "those with its finding, study or report are none");
        assert_eq!(found(3, None), [5, 4, NO_ROW]);
        assert_eq!(found(2, Some(0.2)), [4, NO_ROW], "0.7 is within 0.2 of 0.8");
        let of_last = hardest_of(5, &[0.1, 0.3, 0.2, 0.2, 0.2, 0.9], &rows, &settings(4, None));
        assert_eq!(
            of_last,
            [1, 2, 3, NO_ROW],
            "equal ones in the order of rows; 4 has a finding of 1, 0 the study of 2"
        );
        let names: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        let free: Vec<Known> = names.iter().map(|name| known(name, None, &[])).collect();
        let similarities: Vec<f32> = (0..100).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
        let mut all: Vec<u32> = (1..100).collect();
        all.sort_by(|a, b| similarities[*b as usize].total_cmp(&similarities[*a as usize]));
        assert_eq!(hardest_of(0, &similarities, &free, &settings(3, None)), all[..3]);
    }
}
