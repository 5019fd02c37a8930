//! Images and texts a second through the towers, without gradients.

use std::time::Instant;

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde::Serialize;

use super::Spread;
use super::train_step::{TrainStepBench, random_batch};
use crate::model::{Builder, ClipModel, checkpoint};
use crate::ops::peak_rss_mib;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct EncodeFigures {
    /// Images a second, from bytes of the model's size to features.
    pub images_per_s: Spread,
    /// Texts a second, from token ids to features.
    pub texts_per_s: Spread,
    /// Largest resident size of the process.
    pub peak_rss_mib: u64,
}

/// Encodes one batch again and again, after once for nothing; `bench.steps` rounds.
///
/// # Errors
/// A batch of nothing, texts longer than the model's.
pub fn encode(bench: &TrainStepBench, device: &Device) -> Result<EncodeFigures> {
    bench.check()?;
    let params = checkpoint::random(&bench.config, 0, device)?;
    let model = ClipModel::new(&bench.config, &Builder::eval(&params).products(bench.products))?;
    let batch = random_batch(bench, 0)?;
    let size = bench.config.vision.image_size();
    let input_ids = Tensor::from_slice(&batch.input_ids, (batch.pairs, batch.tokens), device)?;
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    for round in 0..=bench.steps {
        let started = Instant::now();
        let pixel_values = batch.images.to_tensor((batch.pairs, 3, size, size), device)?;
        model.image_embeds(&pixel_values)?;
        device.synchronize()?;
        let between = Instant::now();
        model.text_embeds(&input_ids)?;
        device.synchronize()?;
        if round > 0 {
            images.push(batch.pairs as f64 / (between - started).as_secs_f64());
            texts.push(batch.pairs as f64 / between.elapsed().as_secs_f64());
        }
    }
    Ok(EncodeFigures {
        images_per_s: Spread::of(&images),
        texts_per_s: Spread::of(&texts),
        peak_rss_mib: peak_rss_mib(),
    })
}
