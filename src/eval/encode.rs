//! A data set through the towers, without gradients.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use crate::data::{Prefetch, Preprocess, ReportTokenizer, image};
use crate::error::one_line;
use crate::model::ClipModel;
use crate::ops::squared_sum;

/// L2-normalised rows, on the CPU.
pub type Embeddings = Tensor;

/// Embeddings of image files, (images, embed_dim), rows in the given order. Decoding runs on `workers` threads.
///
/// # Errors
/// An image that cannot be read; the message names the file.
pub fn embed_images(
    model: &ClipModel,
    preprocess: &Preprocess,
    images: &[PathBuf],
    batch_size: usize,
    workers: usize,
    device: &Device,
) -> Result<Embeddings> {
    let (height, width) = preprocess.output_size().context("the preprocessing gives images of various sizes")?;
    let batches: Arc<Vec<Vec<PathBuf>>> = Arc::new(images.chunks(batch_size).map(<[_]>::to_vec).collect());
    let preprocess = preprocess.clone();
    let make = move |i: u64| batches.get(i as usize).map(|paths| pixels(&preprocess, paths));
    let mut rows = Vec::new();
    for (batch, chunk) in Prefetch::start(0, workers, 2 * workers, make).zip(images.chunks(batch_size)) {
        let shape = (chunk.len(), 3, height as usize, width as usize);
        let pixel_values = Tensor::from_vec(batch?, shape, device)?;
        rows.push(model.image_embeds(&pixel_values)?.to_device(&Device::Cpu)?);
    }
    let rows = concatenate(&rows)?;
    ensure!(rows.dim(0)? == images.len(), "a data worker ended unexpectedly");
    finite(rows, "image features")
}

fn pixels(preprocess: &Preprocess, paths: &[PathBuf]) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    for path in paths {
        let planes = image::read(path).and_then(|pixels| preprocess.apply(&pixels, None));
        values.extend(planes.map_err(|e| UnreadableImage { path: path.clone(), reason: one_line(&e) })?);
    }
    Ok(values)
}

/// An image that could not be turned into `pixel_values`.
#[derive(Debug, thiserror::Error)]
#[error("image {reason}")]
pub struct UnreadableImage {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, with the file's name.
    pub reason: String,
}

/// Embeddings of texts, (texts, embed_dim), rows in the given order.
///
/// # Errors
/// Whatever tokenizer or model report.
pub fn embed_texts(
    model: &ClipModel,
    tokenizer: &ReportTokenizer,
    texts: &[&str],
    batch_size: usize,
    device: &Device,
) -> Result<Embeddings> {
    let mut rows = Vec::new();
    for chunk in texts.chunks(batch_size) {
        let (ids, tokens) = tokenizer.encode_batch(chunk.iter().copied())?;
        let input_ids = Tensor::from_vec(ids, (chunk.len(), tokens), device)?;
        rows.push(model.text_embeds(&input_ids)?.to_device(&Device::Cpu)?);
    }
    finite(concatenate(&rows)?, "text features")
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
