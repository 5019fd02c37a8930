//! Directions of classes among embeddings, and the logits of images along them.

use anyhow::Result;
use candle_core::Tensor;

use crate::data::Prompts;
use crate::loss::PromptFeatures;
use crate::ops::reference::l2_normalize;
use crate::session::{Embeddings, Encoder, tell_cut};

/// Directions of the classes: for each a unit vector, the mean of its sentences' unit vectors made unit again, as
/// CLIP's own zero-shot classifier. (directions, embed_dim). Warns of sentences that are cut.
///
/// # Errors
/// Whatever the encoder reports.
pub fn class_directions(encoder: &Encoder, prompts: &Prompts) -> Result<Embeddings> {
    let (sentences, counts) = prompts.sentences();
    tell_cut(encoder.tokenizer, "prompts", &sentences)?;
    directions(PromptFeatures { sentences: &encoder.texts(&sentences)?, counts: &counts })
}

/// The same of unit vectors of the sentences.
pub(super) fn directions(PromptFeatures { sentences, counts }: PromptFeatures) -> Result<Embeddings> {
    let mut start = 0;
    let means = counts.iter().map(|&count| {
        start += count;
        sentences.narrow(0, start - count, count)?.mean_keepdim(0)
    });
    Ok(l2_normalize(&Tensor::cat(&means.collect::<candle_core::Result<Vec<_>>>()?, 0)?)?)
}

/// scale · cosine of each image with each direction of the prompts.
pub(super) fn logits(images: &Embeddings, directions: &Embeddings, scale: f64) -> Result<Vec<Vec<f64>>> {
    let cosines: Vec<Vec<f32>> = images.matmul(&directions.t()?.contiguous()?)?.to_vec2()?;
    Ok(cosines.into_iter().map(|row| row.into_iter().map(|cosine| scale * f64::from(cosine)).collect()).collect())
}
