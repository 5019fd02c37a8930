//! A split with what the towers make of it.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use super::pairs::{Pair, Pairs};
use crate::data::Row;
use crate::session::{Embeddings, Encoder, Tokenized};

/// The distinct images and reports of a split with their embeddings: made once, for every figure that is asked for.
pub struct EncodedSplit<'a> {
    pub(super) pairs: Pairs<'a>,
    /// A row for each distinct image, on the CPU.
    pub(super) images: Embeddings,
    /// A row for each distinct report, on the CPU.
    pub(super) texts: Embeddings,
    /// `logit_scale.exp()`
    pub(super) scale: f64,
}

impl<'a> EncodedSplit<'a> {
    /// Encodes each distinct image and report of `rows` once.
    ///
    /// # Errors
    /// No rows; [`crate::session::UnreadableImage`].
    pub fn new(encoder: &Encoder, rows: &'a [Row]) -> Result<Self> {
        Self::of(encoder, rows, false)
    }

    /// [`Self::new`] that warns, before anything is encoded, of reports that the model does not read to their ends.
    ///
    /// # Errors
    /// As there.
    pub(super) fn telling(encoder: &Encoder, rows: &'a [Row]) -> Result<Self> {
        Self::of(encoder, rows, true)
    }

    fn of(encoder: &Encoder, rows: &'a [Row], tells: bool) -> Result<Self> {
        ensure!(!rows.is_empty(), "there are no pairs to evaluate on");
        let pairs = Pairs::new(rows);
        let tokens = tells.then(|| Tokenized::of(encoder.tokenizer, &pairs.texts)).transpose()?;
        tokens.iter().for_each(|tokens| tokens.warn_cut(encoder.tokenizer, "reports"));
        let images = encoder.images(&pairs.images.sources)?;
        let texts = match tokens {
            Some(tokens) => encoder.texts_of_ids(&tokens.ids)?,
            None => encoder.texts(&pairs.texts)?,
        };
        let scale = f64::from(encoder.model.scale()?.to_scalar::<f32>()?);
        Ok(Self { pairs, images, texts, scale })
    }

    /// Embeddings of each row's image and of its report.
    pub(super) fn of_rows(&self) -> Result<(Embeddings, Embeddings)> {
        let pick = |all: &Embeddings, number: fn(&Pair) -> usize| -> Result<Embeddings> {
            let numbers: Vec<u32> = self.pairs.of_row.iter().map(|pair| number(pair) as u32).collect();
            Ok(all.index_select(&Tensor::new(numbers.as_slice(), &Device::Cpu)?, 0)?)
        };
        Ok((pick(&self.images, |pair| pair.image)?, pick(&self.texts, |pair| pair.text)?))
    }
}

/// The numbers of embeddings, row by row.
pub(super) fn numbers(rows: &Embeddings) -> Result<Vec<Vec<f64>>> {
    let rows = rows.to_vec2::<f32>()?;
    Ok(rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect())
}
