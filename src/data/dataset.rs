//! Rows to batches: decode, augment, preprocess, tokenize.

use super::augment::Augmented;
use super::{Preprocess, ReportTokenizer, Row, image};
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
}

/// A row that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Line of the manifest.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

/// Pairs as numbers. Rows that could not be read are missing and listed.
#[derive(Clone, Debug)]
pub struct Batch {
    /// (pairs, 3, image_size, image_size)
    pub pixel_values: Vec<f32>,
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
        let mut pixel_values = Vec::new();
        let mut errors = Vec::new();
        let mut texts = Vec::new();
        for (i, &index) in rows.iter().enumerate() {
            let row = &self.rows[index];
            let mut rng = stream(self.seed, Purpose::Augment, first_sample + i as u64);
            let planes = image::read(&row.image).and_then(|pixels| {
                let augmented = Augmented::draw(&self.augment, &mut rng);
                self.preprocess.apply(&pixels, augmented.as_ref())
            });
            match planes {
                Ok(planes) => {
                    pixel_values.extend(planes);
                    texts.push(row.report.as_str());
                }
                Err(e) => errors.push(RowError { line: row.line, reason: format!("image {}", one_line(&e)) }),
            }
        }
        let (input_ids, tokens) = self.tokenizer.encode_batch(texts.iter().copied())?;
        Ok(Batch { pixel_values, input_ids, pairs: texts.len(), tokens, errors })
    }
}
