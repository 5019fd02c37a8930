//! Vectors of patches and of tokens, beside those of whole images and texts.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

use super::encode::{Embeddings, Encoder, finite};
use crate::data::{Bags, ImageSource};
use crate::ops::reference::l2_normalize;

/// Takes the vectors of one image or text, (vectors, embed_dim) row after row, L2-normalised.
pub type Keep<'a> = &'a mut dyn FnMut(&[f32]);

impl Encoder<'_> {
    /// [`Self::images`] in this process alone, with the patches of each image: `keep` has those of one after the other,
    /// of a bag those of all its images.
    ///
    /// # Errors
    /// As there; a tower that keeps no patches; an encoder that several ranks share.
    pub fn images_with_patches(&self, images: &[ImageSource], keep: Keep) -> Result<Embeddings> {
        self.check_alone()?;
        let mut rows = Vec::new();
        self.each_batch(images, |pixel_values, places| {
            let (whole, patches) = self.patches_of_all(pixel_values)?;
            let embeds = match Bags::of(places) {
                None => l2_normalize(&whole)?,
                Some(bags) => self.model.bag_embeds(&whole, &bags.segments, &bags.places)?,
            };
            rows.push(embeds.to_device(&Device::Cpu)?);
            let of_image = patches.len() / pixel_values.dim(0)?;
            let mut rest = patches.as_slice();
            for places in places {
                let own;
                (own, rest) = rest.split_at(places.len() * of_image);
                keep(own);
            }
            Ok(())
        })?;
        self.rows(rows, images.len(), "image features")
    }

    fn check_alone(&self) -> Result<()> {
        let ranks = self.world.size();
        ensure!(ranks == 1, "patches and tokens are made by one process alone, and {ranks} share this encoder");
        Ok(())
    }

    /// Features of images, (images, embed_dim), and vectors of their patches, as many images at once as of others.
    fn patches_of_all(&self, pixel_values: &Tensor) -> Result<(Tensor, Vec<f32>)> {
        let (mut whole, mut patches) = (Vec::new(), Vec::new());
        let count = pixel_values.dim(0)?;
        for start in (0..count).step_by(self.batch_size) {
            let part = pixel_values.narrow(0, start, self.batch_size.min(count - start))?;
            let features = self.model.image_features_with_patches(&part)?;
            let (features, images) = (features.tensor(), part.dim(0)?);
            whole.push(features.narrow(0, 0, images)?);
            patches.extend(unit_rows(features, images, "features of patches")?);
        }
        Ok((Tensor::cat(&whole, 0)?, patches))
    }

    /// [`Self::texts`] in this process alone, with the tokens of each text: `keep` has those of one after the other.
    /// Left out are padding and the marks of begin and end; a text that has nothing else keeps its first.
    ///
    /// # Errors
    /// As there; a tower that keeps no tokens; an encoder that several ranks share.
    pub fn texts_with_tokens(&self, texts: &[&str], keep: Keep) -> Result<Embeddings> {
        let ids = texts.iter().map(|text| self.tokenizer.encode(text)).collect::<Result<Vec<_>>>()?;
        self.ids_with_tokens(&ids, keep)
    }

    /// [`Self::texts_with_tokens`] of the token ids of each text, as [`super::Tokenized`] has them.
    ///
    /// # Errors
    /// As there.
    pub fn ids_with_tokens(&self, ids: &[Vec<u32>], keep: Keep) -> Result<Embeddings> {
        self.check_alone()?;
        let ((begin, end), width) = (self.tokenizer.marks()?, self.model.embed_dim());
        let mut rows = Vec::new();
        for chunk in ids.chunks(self.batch_size) {
            let (padded, tokens) = self.tokenizer.pad(chunk);
            let input_ids = Tensor::from_slice(&padded, (chunk.len(), tokens), self.device)?;
            let (features, segments) = self.model.text_features_with_tokens(&input_ids)?;
            let features = features.tensor();
            rows.push(l2_normalize(&features.narrow(0, 0, chunk.len())?)?.to_device(&Device::Cpu)?);
            let vectors = unit_rows(features, chunk.len(), "features of tokens")?;
            for ((first, length), own) in segments.spans().zip(chunk) {
                // By their places: padding may be a word, such as the "!" of CLIP's, and words may look like marks.
                let words = begin..length.min(own.len().saturating_sub(end));
                let words = if words.is_empty() { 0..1 } else { words };
                keep(&vectors[(first + words.start) * width..(first + words.end) * width]);
            }
        }
        self.rows(rows, ids.len(), "text features")
    }

    fn rows(&self, rows: Vec<Tensor>, count: usize, what: &str) -> Result<Embeddings> {
        ensure!(!rows.is_empty(), "there is nothing to encode");
        let rows = finite(Tensor::cat(&rows, 0)?, what)?;
        ensure!(rows.dim(0)? == count, "a data worker ended unexpectedly");
        Ok(rows)
    }
}

/// The rows from `first` on, L2-normalised, one after the other.
fn unit_rows(features: &Tensor, first: usize, what: &str) -> Result<Vec<f32>> {
    let rows = features.narrow(0, first, features.dim(0)? - first)?;
    Ok(finite(l2_normalize(&rows)?.to_device(&Device::Cpu)?, what)?.flatten_all()?.to_vec1()?)
}
