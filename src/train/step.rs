//! One optimizer step's forward and backward: the loss over the whole batch, in the memory of one chunk.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor, Var, backprop::GradStore};

use crate::data::Batch;
use crate::loss::{ClipLoss, ClipLossOutput};
use crate::model::{Builder, ClipConfig, ClipModel, Params};
use crate::optim::Gradients;

/// What a step gives.
pub struct StepOutput {
    /// Gradient of every trainable weight.
    pub grads: Gradients,
    /// Loss and what is logged beside it.
    pub loss: ClipLossOutput,
}

struct Chunk {
    pixel_values: Tensor, // (pairs, 3, size, size)
    input_ids: Tensor,    // (pairs, tokens)
}

/// Loss and gradients over all `batches` together: every pair of the step is a negative of every other.
///
/// With one batch, plain back-propagation. With more, in two passes (GradCache, arXiv 2101.06983): features of all
/// chunks without a graph, the loss's gradient on the features, then each chunk again with its features' gradient.
///
/// # Errors
/// A loss that is not finite; a trainable weight that gets no gradient.
pub fn train_step(
    config: &ClipConfig,
    params: &Params,
    loss: &ClipLoss,
    batches: &[Batch],
    device: &Device,
) -> Result<StepOutput> {
    let chunks: Vec<Chunk> = batches.iter().map(|b| chunk(b, config, device)).collect::<Result<_>>()?;
    let model = ClipModel::new(config, &Builder::train(params))?;
    let mut grads = Gradients::new();
    let output = match chunks.as_slice() {
        [only] => {
            let (image, text) = (model.image_embeds(&only.pixel_values)?, model.text_embeds(&only.input_ids)?);
            let output = checked(loss.forward(&image, &text, &model.scale()?)?, &image, &text)?;
            add_grads(&mut grads, params, &mut output.loss.backward()?)?;
            output
        }
        chunks => {
            let (images, texts) = features_without_graph(config, params, chunks)?;
            let (images, texts) = (Var::from_tensor(&images)?, Var::from_tensor(&texts)?);
            let output = checked(loss.forward(&images, &texts, &model.scale()?)?, &images, &texts)?;
            let mut of_features = output.loss.backward()?;
            let image_grad = of_features.remove(&images).context("image features get no gradient")?;
            let text_grad = of_features.remove(&texts).context("text features get no gradient")?;
            add_grads(&mut grads, params, &mut of_features)?;
            let mut start = 0;
            for chunk in chunks {
                let pairs = chunk.input_ids.dim(0)?;
                let part = |grad: &Tensor| grad.narrow(0, start, pairs);
                // The gradient of this product is the chunk's share of the whole loss's.
                let image = (model.image_embeds(&chunk.pixel_values)? * part(&image_grad)?)?.sum_all()?;
                let text = (model.text_embeds(&chunk.input_ids)? * part(&text_grad)?)?.sum_all()?;
                add_grads(&mut grads, params, &mut (image + text)?.backward()?)?;
                start += pairs;
            }
            output
        }
    };
    for param in params.trainable() {
        let name = &param.spec.name;
        ensure!(grads.contains_key(name), "{name} is trainable and got no gradient; please report this as a bug");
    }
    Ok(StepOutput { grads, loss: output })
}

fn chunk(batch: &Batch, config: &ClipConfig, device: &Device) -> Result<Chunk> {
    let size = config.vision.image_size;
    Ok(Chunk {
        pixel_values: Tensor::from_slice(&batch.pixel_values, (batch.pairs, 3, size, size), device)?,
        input_ids: Tensor::from_slice(&batch.input_ids, (batch.pairs, batch.tokens), device)?,
    })
}

fn features_without_graph(config: &ClipConfig, params: &Params, chunks: &[Chunk]) -> Result<(Tensor, Tensor)> {
    let model = ClipModel::new(config, &Builder::eval(params))?;
    let images = chunks.iter().map(|c| model.image_embeds(&c.pixel_values)).collect::<candle_core::Result<Vec<_>>>()?;
    let texts = chunks.iter().map(|c| model.text_embeds(&c.input_ids)).collect::<candle_core::Result<Vec<_>>>()?;
    Ok((Tensor::cat(&images, 0)?, Tensor::cat(&texts, 0)?))
}

fn add_grads(sum: &mut Gradients, params: &Params, grads: &mut GradStore) -> Result<()> {
    for param in params.trainable() {
        let Some(grad) = grads.remove(&param.var) else { continue };
        let total = match sum.remove(&param.spec.name) {
            Some(before) => (before + grad)?,
            None => grad,
        };
        sum.insert(param.spec.name.clone(), total);
    }
    Ok(())
}

/// The output, or which tensor was the first that is not finite.
fn checked(output: ClipLossOutput, image: &Tensor, text: &Tensor) -> Result<ClipLossOutput> {
    if output.loss.to_scalar::<f32>()?.is_finite() {
        return Ok(output);
    }
    for (name, features) in [("image features", image), ("text features", text)] {
        ensure!(
            crate::ops::squared_sum(&features.detach())?.is_finite(),
            "the {name} are not finite; a lower optim.lr often helps"
        );
    }
    anyhow::bail!(
        "the loss is not finite, although the features are: logit_scale has run away; a lower optim.lr often helps"
    )
}
