//! Images against the sentences of a prompt file.

use candle_core::{Result, Tensor, bail};

use super::objective::{Inputs, PromptFeatures};
use crate::ops::reference::l2_normalize;

/// scale · cosine of each image with each direction of the prompts: the mean of a class's sentences, each of length 1,
/// made so again. (batch, directions)
pub(super) fn similarities(inputs: &Inputs) -> Result<Tensor> {
    let Some(PromptFeatures { sentences, counts }) = inputs.prompts else { bail!("this objective needs loss.prompts") };
    let all: usize = counts.iter().sum();
    if sentences.dim(0)? != all {
        bail!("{} prompt features for {all} sentences", sentences.dim(0)?);
    }
    let mut mean = vec![0f32; counts.len() * all];
    let mut start = 0;
    for (row, &count) in counts.iter().enumerate() {
        mean[row * all + start..row * all + start + count].fill(1.0 / count as f32);
        start += count;
    }
    let mean = Tensor::from_vec(mean, (counts.len(), all), sentences.device())?;
    let directions = l2_normalize(&mean.matmul(&l2_normalize(sentences)?)?)?;
    l2_normalize(inputs.image)?.matmul(&directions.t()?)?.broadcast_mul(inputs.scale)
}
