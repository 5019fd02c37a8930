//! A data set through the towers, without gradients.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use crate::data::{ImageSource, Prefetch, Preprocess, ReportTokenizer};
use crate::error::one_line;
use crate::model::ClipModel;
use crate::ops::squared_sum;

/// L2-normalised rows, on the CPU.
pub type Embeddings = Tensor;

/// A model with all that turns files and texts into its input.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// The towers.
    pub model: &'a ClipModel,
    /// Steps from pixels to input.
    pub preprocess: &'a Preprocess,
    /// Steps from text to token ids.
    pub tokenizer: &'a ReportTokenizer,
    /// Where the model is.
    pub device: &'a Device,
    /// Items at once.
    pub batch_size: usize,
    /// Threads that decode images.
    pub workers: usize,
}

impl Encoder<'_> {
    /// Embeddings of image files, (images, embed_dim), rows in the given order.
    ///
    /// # Errors
    /// [`UnreadableImage`]; features that are not finite.
    pub fn images(&self, images: &[ImageSource]) -> Result<Embeddings> {
        let size = self.preprocess.output_size();
        let (height, width) = size.context("the preprocessing gives images of various sizes")?;
        let batches: Arc<Vec<Vec<ImageSource>>> = Arc::new(images.chunks(self.batch_size).map(<[_]>::to_vec).collect());
        let preprocess = self.preprocess.clone();
        let make = move |i: u64| batches.get(i as usize).map(|images| pixels(&preprocess, images));
        let mut rows = Vec::new();
        let decoded = Prefetch::start(0, self.workers, 2 * self.workers, make);
        for (batch, chunk) in decoded.zip(images.chunks(self.batch_size)) {
            let shape = (chunk.len(), 3, height as usize, width as usize);
            let pixel_values = Tensor::from_vec(batch?, shape, self.device)?;
            rows.push(self.model.image_embeds(&pixel_values)?.to_device(&Device::Cpu)?);
        }
        let rows = concatenate(&rows)?;
        ensure!(rows.dim(0)? == images.len(), "a data worker ended unexpectedly");
        finite(rows, "image features")
    }

    /// Embeddings of texts, (texts, embed_dim), rows in the given order.
    ///
    /// # Errors
    /// Whatever tokenizer or model report; features that are not finite.
    pub fn texts(&self, texts: &[&str]) -> Result<Embeddings> {
        let mut rows = Vec::new();
        for chunk in texts.chunks(self.batch_size) {
            let (ids, tokens) = self.tokenizer.encode_batch(chunk.iter().copied())?;
            let input_ids = Tensor::from_vec(ids, (chunk.len(), tokens), self.device)?;
            rows.push(self.model.text_embeds(&input_ids)?.to_device(&Device::Cpu)?);
        }
        finite(concatenate(&rows)?, "text features")
    }
}

fn pixels(preprocess: &Preprocess, images: &[ImageSource]) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    for image in images {
        let planes = image.read().and_then(|pixels| preprocess.apply(&pixels, None));
        values.extend(planes.map_err(|e| UnreadableImage { image: image.clone(), reason: one_line(&e) })?);
    }
    Ok(values)
}

/// An image that could not be turned into `pixel_values`.
#[derive(Debug, thiserror::Error)]
#[error("image {reason}")]
pub struct UnreadableImage {
    /// Which.
    pub image: ImageSource,
    /// What is wrong, with the file's name.
    pub reason: String,
}

/// Figures of features that are not numbers would look like figures.
fn finite(rows: Embeddings, what: &str) -> Result<Embeddings> {
    ensure!(squared_sum(&rows)?.is_finite(), "the {what} are not finite: the weights or the config are broken");
    Ok(rows)
}

fn concatenate(rows: &[Tensor]) -> Result<Tensor> {
    if rows.is_empty() {
        return Ok(Tensor::zeros((0, 0), candle_core::DType::F32, &Device::Cpu)?);
    }
    Ok(Tensor::cat(rows, 0)?)
}
