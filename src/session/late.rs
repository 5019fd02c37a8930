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
    /// As there; a tower that keeps no patches.
    pub fn images_with_patches(&self, images: &[ImageSource], keep: Keep) -> Result<Embeddings> {
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

    /// [`Self::texts`] in this process alone, with the tokens of each text: `keep` has those of one after the other. Left
    /// out are padding and the marks of begin and end; a text that has nothing else keeps its first.
    ///
    /// # Errors
    /// As there; a tower that keeps no tokens.
    pub fn texts_with_tokens(&self, texts: &[&str], keep: Keep) -> Result<Embeddings> {
        let (marks, width) = (self.tokenizer.marks()?, self.model.embed_dim());
        let mut rows = Vec::new();
        for chunk in texts.chunks(self.batch_size) {
            let (ids, tokens) = self.tokenizer.encode_batch(chunk.iter().copied())?;
            let input_ids = Tensor::from_slice(&ids, (chunk.len(), tokens), self.device)?;
            let (features, segments) = self.model.text_features_with_tokens(&input_ids)?;
            let features = features.tensor();
            rows.push(l2_normalize(&features.narrow(0, 0, chunk.len())?)?.to_device(&Device::Cpu)?);
            let vectors = unit_rows(features, chunk.len(), "features of tokens")?;
            for ((first, length), ids) in segments.spans().zip(ids.chunks(tokens)) {
                let is_word = |i: &usize| !marks.contains(&ids[*i]);
                let row = |i: usize| &vectors[(first + i) * width..][..width];
                let words: Vec<&[f32]> = (0..length).filter(is_word).map(row).collect();
                if words.is_empty() { keep(row(0)) } else { keep(&words.concat()) }
            }
        }
        self.rows(rows, texts.len(), "text features")
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
