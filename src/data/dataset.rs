//! Rows to batches: decode, augment, preprocess, tokenize.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::{Device, Shape, Tensor};
use rand::RngExt;
use rayon::prelude::*;

use super::augment::Augmented;
use super::config::{AugmentConfig, LongReports};
use super::text::{OppositeKind, opposites_of_part, with_opposite};
use super::{BagPolicy, Bags, KeptFeatures, KeptReports, Member, Members};
use super::{Packed, Prepared, Preprocess, ReportPolicy, ReportTokenizer, Row};
use crate::error::one_line;
use crate::ops::{self, Uploaded, Uploader};
use crate::seed::{Purpose, stream};

/// Everything that turns rows into numbers.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The pairs.
    pub rows: Vec<Row>,
    /// Steps from pixels to model input.
    pub preprocess: Preprocess,
    /// Steps from report to token ids.
    pub tokenizer: ReportTokenizer,
    /// What of a report is read.
    pub policy: ReportPolicy,
    /// Random changes to images; only training draws them.
    pub augment: AugmentConfig,
    /// Seed of the changes.
    pub seed: u64,
    /// How often a report brings a text that says its opposite; only training draws them.
    pub negation: f64,
    /// Which images of a bag are read.
    pub bags: BagPolicy,
    /// What the frozen layers make of the images, where that is kept.
    pub features: Option<Arc<KeptFeatures>>,
    /// What a frozen text tower makes of the reports, where that is kept.
    pub reports: Option<Arc<KeptReports>>,
}

/// A row that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Number of the manifest's file, from 0.
    pub file: usize,
    /// Line of it.
    pub line: u64,
    /// Both in words: `file:line`.
    pub place: String,
    /// What is wrong.
    pub reason: String,
}

/// Images of a batch, bag after bag, in one of the forms that the model takes.
#[derive(Clone, Debug)]
pub enum Images {
    /// Of the model's size, to be normalised when their turn comes.
    Prepared(Vec<Prepared>),
    /// `pixel_values`, (images, 3, image_size, image_size).
    Pixels(Vec<f32>),
    /// What the frozen layers make of them, as read from [`KeptFeatures`].
    Features(Vec<f32>),
    /// [`Self::Prepared`] on a GPU, or on their way to it.
    Uploaded(Uploaded),
}

/// Pairs as numbers. Rows that could not be read are missing and listed.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images.
    pub images: Images,
    /// Which of them belong to each pair; `None` where each pair has one.
    pub bags: Option<Bags>,
    /// (pairs + opposed, tokens), padded on the right to the longest.
    pub input_ids: Vec<u32>,
    /// What a frozen text tower makes of the reports, (pairs, width), where that is kept.
    pub text_states: Option<Vec<f32>>,
    /// Pairs that were read.
    pub pairs: usize,
    /// The row of each, by its number in the data set.
    pub rows: Vec<usize>,
    /// Tokens of the longest text.
    pub tokens: usize,
    /// Of each text beyond those of the pairs, the pair whose report it contradicts.
    pub opposed: Vec<usize>,
    /// Pairs that were not.
    pub errors: Vec<RowError>,
}

impl Dataset {
    /// The batch of `rows`, with augmentation drawn for samples number `first_sample`, `first_sample + 1`, …
    ///
    /// # Errors
    /// Only what is no fault of a row: the tokenizer fails, or kept features cannot be read.
    pub fn batch(&self, rows: &[usize], first_sample: u64) -> anyhow::Result<Batch> {
        let (mut prepared, mut features) = (Vec::new(), Vec::new());
        let (mut errors, mut places) = (Vec::new(), Vec::with_capacity(rows.len()));
        let mut read = Vec::with_capacity(rows.len());
        let (mut texts, mut samples): (Vec<Cow<str>>, Vec<u64>) = Default::default();
        for (i, &index) in rows.iter().enumerate() {
            let row = &self.rows[index];
            let sample = first_sample + i as u64;
            let text = self.text(row, sample)?;
            let failed = |reason| RowError { file: row.origin().number, line: row.line, place: row.place(), reason };
            if let Some(cache) = &self.features
                && let Some(of_bag) = cache.read(index, (self.seed, sample), &mut features)?
            {
                places.push(of_bag);
                texts.push(text);
                samples.push(sample);
                read.push(index);
                continue;
            }
            match self.members(row, sample) {
                Ok(_) if self.features.is_some() => {
                    errors.push(failed("image could not be read at the start".into()));
                }
                Ok(members) => {
                    places.push(members.iter().map(|member| member.place).collect::<Vec<_>>());
                    prepared.extend(members.into_iter().map(|member| member.prepared));
                    texts.push(text);
                    samples.push(sample);
                    read.push(index);
                }
                Err(e) => {
                    // The place stands before the reason already.
                    let line = one_line(&e);
                    let reason = line.strip_prefix(&format!("{}: ", row.image())).unwrap_or(&line);
                    errors.push(failed(format!("image {reason}")));
                }
            }
        }
        let pairs = texts.len();
        let opposed = self.opposed(&texts, &read, &samples);
        let (of, more): (Vec<usize>, Vec<String>) = opposed.into_iter().unzip();
        let all = texts.iter().map(|t| &**t).chain(more.iter().map(String::as_str));
        let (input_ids, tokens) = self.tokenizer.encode_batch(all)?;
        let (input_ids, opposed) = told_apart(input_ids, tokens, pairs, &of);
        let text_states = self.reports.as_ref().map(|reports| reports.read(&read)).transpose()?;
        let images = if self.features.is_some() { Images::Features(features) } else { Images::Prepared(prepared) };
        let bags = Bags::of(&places);
        Ok(Batch { images, bags, input_ids, text_states, pairs, rows: read, tokens, opposed, errors })
    }

    /// The images of a row that are read as sample number `sample`. All are changed alike.
    fn members(&self, row: &Row, sample: u64) -> anyhow::Result<Vec<Member>> {
        let members = Members::of(row.image(), &self.bags)?;
        let chosen = self.bags.picked(members.count(), (self.seed, sample));
        members.read(&chosen, &self.bags, |picture| {
            let mut rng = stream(self.seed, Purpose::Augment, sample);
            let augmented = Augmented::draw(&self.augment, &mut rng);
            self.preprocess.prepare(picture, augmented.as_ref())
        })
    }

    /// Texts that say the opposite of some of `texts`, which are read of rows number `rows` as samples number
    /// `samples`, each with the number of the text that it contradicts: one sentence of it is turned round. Of the
    /// kinds that a text has, each comes equally often.
    fn opposed(&self, texts: &[Cow<str>], rows: &[usize], samples: &[u64]) -> Vec<(usize, String)> {
        let of_text = |(number, ((text, &row), &sample)): (usize, ((&Cow<str>, &usize), &u64))| {
            let mut rng = stream(self.seed, Purpose::Opposite, sample);
            if rng.random::<f64>() >= self.negation {
                return None;
            }
            let mut found = opposites_of_part(self.rows[row].report(), text);
            let kinds: Vec<OppositeKind> =
                OppositeKind::ALL.into_iter().filter(|k| found.iter().any(|o| o.opposite.kind == *k)).collect();
            let kind = *kinds.get(rng.random_range(0..kinds.len().max(1)))?;
            found.retain(|o| o.opposite.kind == kind);
            Some((number, with_opposite(text, &found[rng.random_range(0..found.len())])))
        };
        if self.negation > 0.0 {
            texts.iter().zip(rows).zip(samples).enumerate().filter_map(of_text).collect()
        } else {
            Vec::new()
        }
    }

    /// What of a row's report is read as sample number `sample`.
    fn text<'a>(&self, row: &'a Row, sample: u64) -> anyhow::Result<Cow<'a, str>> {
        let mut rng = stream(self.seed, Purpose::Text, sample);
        let text = self.policy.draw(row.report(), &mut rng);
        if self.policy.long != LongReports::Chunk {
            return Ok(text.into());
        }
        let mut chunks = self.tokenizer.chunks(text)?;
        Ok(match chunks.len() {
            0 | 1 => text.into(),
            count => chunks.swap_remove(rng.random_range(0..count)).into(),
        })
    }
}

/// The token ids of `pairs` texts and of those beyond them, `of` says to which they belong, without those that are cut
/// before they differ: what reads alike is no negative.
fn told_apart(mut input_ids: Vec<u32>, tokens: usize, pairs: usize, of: &[usize]) -> (Vec<u32>, Vec<usize>) {
    let beyond = input_ids.split_off(pairs * tokens);
    let mut kept = Vec::with_capacity(of.len());
    for (ids, &pair) in beyond.chunks_exact(tokens.max(1)).zip(of) {
        if *ids != input_ids[pair * tokens..(pair + 1) * tokens] {
            input_ids.extend_from_slice(ids);
            kept.push(pair);
        }
    }
    (input_ids, kept)
}

impl Images {
    /// What the model takes, (images, …), on `device`, in this shape. A GPU gets bytes and works the numbers out
    /// itself, the same.
    ///
    /// # Errors
    /// Another count of numbers; whatever the device reports.
    pub fn to_tensor(&self, shape: impl Into<Shape>, device: &Device) -> candle_core::Result<Tensor> {
        match self {
            Self::Uploaded(images) => images.pixels()?.reshape(shape),
            Self::Prepared(images) if device.is_cuda() && !images.is_empty() => {
                let packed = Packed::new(images);
                ops::pixels(&packed.bytes, &packed.tables, (images.len(), packed.channels), device)?.reshape(shape)
            }
            Self::Pixels(numbers) | Self::Features(numbers) => Tensor::from_slice(numbers, shape.into(), device),
            Self::Prepared(images) => {
                let each = images.first().map_or(0, Prepared::len);
                let mut numbers = vec![0.0; images.len() * each];
                numbers.par_chunks_mut(each.max(1)).zip(images).for_each(|(numbers, image)| image.write(numbers));
                Tensor::from_vec(numbers, shape.into(), device)
            }
        }
    }
}

impl Batch {
    /// With its images on their way to a GPU.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn upload(self, uploader: &Uploader) -> candle_core::Result<Self> {
        match &self.images {
            Images::Prepared(images) if !images.is_empty() => {
                let packed = Packed::new(images);
                let shape = (images.len(), packed.channels);
                let images = Images::Uploaded(uploader.begin(&packed.bytes, &packed.tables, shape)?);
                Ok(Self { images, ..self })
            }
            _ => Ok(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_before_it_differs_is_no_negative() {
        // Two texts of three tokens, and opposites of the second, of the first, and of the second once more.
        let ids = vec![1, 2, 0, 1, 3, 4, 1, 3, 4, 1, 9, 2, 1, 3, 5];
        let (kept, of) = told_apart(ids, 3, 2, &[1, 0, 1]);
        assert_eq!((kept, of), (vec![1, 2, 0, 1, 3, 4, 1, 9, 2, 1, 3, 5], vec![0, 1]));
        assert_eq!(told_apart(Vec::new(), 0, 0, &[]), (Vec::new(), Vec::new()));
    }
}
