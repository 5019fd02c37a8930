//! Embeddings of images of which some may not be readable.

use anyhow::{Result, ensure};
use candle_core::Tensor;

use crate::data::{ImageSource, OnError};
use crate::session::{Encoder, UnreadableImage};

/// The numbers of those of `images` that can be read, and their embeddings, (readable, embed_dim).
///
/// # Errors
/// An image that cannot be read, where `on_error` says so; there is no other.
pub(super) fn readable_images(
    encoder: &Encoder,
    images: &[ImageSource],
    on_error: OnError,
) -> Result<(Vec<u32>, Tensor)> {
    /// So many of a rank's batches are encoded anew where one image of them cannot be read.
    const BATCHES: usize = 16;
    let numbers: Vec<u32> = (0..images.len() as u32).collect();
    let (mut readable, mut parts) = (Vec::new(), Vec::new());
    for block in numbers.chunks(BATCHES * encoder.batch_size * encoder.world.size()) {
        let mut left = block.to_vec();
        while !left.is_empty() {
            let sources: Vec<ImageSource> = left.iter().map(|&i| images[i as usize].clone()).collect();
            let error = match encoder.images(&sources) {
                Ok(embeddings) => {
                    parts.push(embeddings);
                    readable.append(&mut left);
                    continue;
                }
                Err(error) => error,
            };
            let bad = error.downcast_ref::<UnreadableImage>().map(|e| e.image.clone());
            let before = left.len();
            left.retain(|&i| Some(&images[i as usize]) != bad.as_ref());
            if on_error == OnError::Stop || left.len() == before {
                return Err(error);
            }
        }
    }
    ensure!(!parts.is_empty(), "none of {} images can be read", images.len());
    Ok((readable, Tensor::cat(&parts, 0)?))
}
