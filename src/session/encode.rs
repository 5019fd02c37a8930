//! A data set through the towers, without gradients.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use crate::data::{ImageSource, Prefetch, Preprocess, ReportTokenizer};
use crate::dist::Collective;
use crate::error::one_line;
use crate::model::ClipModel;
use crate::ops::squared_sum;

/// L2-normalised rows, on the CPU.
pub type Embeddings = Tensor;

/// A model with all that turns files and texts into its input.
pub struct Encoder<'a> {
    /// The ranks that share the work.
    pub world: &'a dyn Collective,
    /// The towers.
    pub model: ClipModel,
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
    /// Embeddings of image files, (images, embed_dim), rows in the given order. Each rank encodes its share of the
    /// batches; all get all.
    ///
    /// # Errors
    /// [`UnreadableImage`], of whichever rank met one; features that are not finite.
    pub fn images(&self, images: &[ImageSource]) -> Result<Embeddings> {
        let rows = self.own_images(images);
        let bad = rows.as_ref().err().and_then(|e| e.downcast_ref::<UnreadableImage>());
        let message = match bad {
            Some(bad) => {
                let number = images.iter().position(|image| *image == bad.image).context("an image of none")?;
                [&(number as u64).to_le_bytes(), bad.reason.as_bytes()].concat()
            }
            None => Vec::new(),
        };
        if let Some(bad) = self.world.gather_bytes(&message)?.iter().find(|message| !message.is_empty()) {
            let (number, reason) = bad.split_first_chunk::<8>().context("an image of none")?;
            let image = images.get(u64::from_le_bytes(*number) as usize).context("an image of none")?.clone();
            return Err(UnreadableImage { image, reason: String::from_utf8_lossy(reason).into_owned() }.into());
        }
        let rows = self.gather(&rows?)?;
        ensure!(rows.dim(0)? == images.len(), "a data worker ended unexpectedly");
        finite(rows, "image features")
    }

    fn own_images(&self, images: &[ImageSource]) -> Result<Vec<Tensor>> {
        let size = self.preprocess.output_size();
        let (height, width) = size.context("the preprocessing gives images of various sizes")?;
        let batches: Vec<Vec<ImageSource>> = self.own_batches(images).map(<[_]>::to_vec).collect();
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        let preprocess = self.preprocess.clone();
        let make = move |i: u64| batches.get(i as usize).map(|images| pixels(&preprocess, images));
        let mut rows = Vec::new();
        let decoded = Prefetch::start(0, self.workers, 2 * self.workers, make)?;
        for (batch, count) in decoded.zip(sizes) {
            let shape = (count, 3, height as usize, width as usize);
            let pixel_values = Tensor::from_vec(batch?, shape, self.device)?;
            rows.push(self.model.image_embeds(&pixel_values)?.to_device(&Device::Cpu)?);
        }
        Ok(rows)
    }

    /// Embeddings of texts, (texts, embed_dim), rows in the given order, as [`Self::images`] does it.
    ///
    /// # Errors
    /// Whatever tokenizer or model report; features that are not finite.
    pub fn texts(&self, texts: &[&str]) -> Result<Embeddings> {
        let mut rows = Vec::new();
        for chunk in self.own_batches(texts) {
            let (ids, tokens) = self.tokenizer.encode_batch(chunk.iter().copied())?;
            let input_ids = Tensor::from_vec(ids, (chunk.len(), tokens), self.device)?;
            rows.push(self.model.text_embeds(&input_ids)?.to_device(&Device::Cpu)?);
        }
        finite(self.gather(&rows)?, "text features")
    }

    /// Whole batches, so that each row is worked out among the same others whatever the number of ranks.
    fn own_batches<'t, T>(&self, all: &'t [T]) -> impl Iterator<Item = &'t [T]> + use<'t, T> {
        let own = self.world.share(all.len().div_ceil(self.batch_size));
        all.chunks(self.batch_size).skip(own.start).take(own.len())
    }

    fn gather(&self, own: &[Tensor]) -> Result<Embeddings> {
        self.world.gather_parts(own, self.model.embed_dim(), &Device::Cpu)
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
