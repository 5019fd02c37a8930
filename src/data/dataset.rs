//! Rows to batches: decode, augment, preprocess, tokenize.

use std::sync::Arc;

use rayon::prelude::*;

use super::augment::Augmented;
use super::{FeatureCache, Prepared, Preprocess, ReportTokenizer, Row, image};
use crate::config::AugmentConfig;
use crate::error::one_line;
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
    /// Random changes to images; only training draws them.
    pub augment: AugmentConfig,
    /// Seed of the changes.
    pub seed: u64,
    /// What the frozen layers make of each row's image, where that is kept.
    pub features: Option<Arc<FeatureCache>>,
}

/// A row that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Line of the manifest.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

/// Images of a batch, in one of the forms that the model takes.
#[derive(Clone, Debug)]
pub enum Images {
    /// Of the model's size, to be normalised when their turn comes.
    Prepared(Vec<Prepared>),
    /// `pixel_values`, (pairs, 3, image_size, image_size).
    Pixels(Vec<f32>),
    /// What the frozen layers make of them, as read from a [`super::FeatureCache`].
    Features(Vec<f32>),
}

/// Pairs as numbers. Rows that could not be read are missing and listed.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images.
    pub images: Images,
    /// (pairs, tokens), padded on the right to the longest.
    pub input_ids: Vec<u32>,
    /// Pairs that were read.
    pub pairs: usize,
    /// Tokens of the longest text.
    pub tokens: usize,
    /// Pairs that were not.
    pub errors: Vec<RowError>,
}

impl Dataset {
    /// The batch of `rows`, with augmentation drawn for samples number `first_sample`, `first_sample + 1`, …
    ///
    /// # Errors
    /// Only what is no fault of a row: the tokenizer fails.
    pub fn batch(&self, rows: &[usize], first_sample: u64) -> anyhow::Result<Batch> {
        let (mut prepared, mut features) = (Vec::new(), Vec::new());
        let mut errors = Vec::new();
        let mut texts = Vec::new();
        for (i, &index) in rows.iter().enumerate() {
            let row = &self.rows[index];
            if let Some(cache) = &self.features
                && cache.read(index, &mut features)?
            {
                texts.push(row.report.as_str());
                continue;
            }
            let mut rng = stream(self.seed, Purpose::Augment, first_sample + i as u64);
            let image = image::read(&row.image).and_then(|pixels| {
                let augmented = Augmented::draw(&self.augment, &mut rng);
                self.preprocess.prepare(&pixels, augmented.as_ref())
            });
            match image {
                Ok(_) if self.features.is_some() => {
                    errors.push(RowError { line: row.line, reason: "image could not be read at the start".into() });
                }
                Ok(image) => {
                    prepared.push(image);
                    texts.push(row.report.as_str());
                }
                Err(e) => errors.push(RowError { line: row.line, reason: format!("image {}", one_line(&e)) }),
            }
        }
        let (input_ids, tokens) = self.tokenizer.encode_batch(texts.iter().copied())?;
        let images = if self.features.is_some() { Images::Features(features) } else { Images::Prepared(prepared) };
        Ok(Batch { images, input_ids, pairs: texts.len(), tokens, errors })
    }
}

impl Images {
    /// (pairs, …) numbers of what the model takes.
    pub fn numbers(&self) -> Vec<f32> {
        match self {
            Self::Pixels(numbers) | Self::Features(numbers) => numbers.clone(),
            Self::Prepared(images) => {
                let each = images.first().map_or(0, Prepared::len);
                let mut numbers = vec![0.0; images.len() * each];
                numbers.par_chunks_mut(each.max(1)).zip(images).for_each(|(numbers, image)| image.write(numbers));
                numbers
            }
        }
    }
}
