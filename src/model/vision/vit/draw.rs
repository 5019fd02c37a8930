//! A vision transformer as a graph.

use anyhow::Result;
use candle_core::{DType, Tensor};

use super::config::{VitConfig, VitPool};
use super::layers::{attention_pool_config, stack_config};
use crate::model::graph::{Conv, Drawing, Edge};
use crate::model::layers::drawn;
use crate::ops::Activation;

pub fn draw(c: &VitConfig, d: &Drawing, pixel_values: &Edge) -> Result<Edge> {
    let patches = d.enter("embeddings").conv_layer("patch_embedding", pixel_values, Conv::even(c.patch_size, 0))?;
    let mut x = d.pixels_as_rows(&patches)?;
    if c.prefix_rows() > 0 {
        let pads = d.ints(&[0, c.prefix_rows() as i64, 0, 0, 0, 0])?;
        x = d.op("Pad", &[&x, &pads]);
    }
    if let Some(added) = added_to_rows(c, &d.enter("embeddings"))? {
        x = d.add(&x, &d.constant("embeddings.rows", added));
    }
    if c.pre_norm {
        x = d.layer_norm("pre_layrnorm", &x, c.layer_norm_eps)?;
    }
    let x = drawn::stack(d, &stack_config(c), x, None)?;
    let normed = |x: Edge| if c.final_norm { d.layer_norm("post_layernorm", &x, c.layer_norm_eps) } else { Ok(x) };
    if matches!(c.pool, VitPool::Cls | VitPool::Dense) {
        let state = normed(d.gather(&x, &d.int(c.prefix.registers as i64)?, 1))?;
        return match c.pool {
            VitPool::Dense => d.activation(Activation::Tanh, &d.linear("pooler.dense", &state)?),
            _ => Ok(state),
        };
    }
    let x = normed(x)?;
    if c.pool == VitPool::Attention {
        return drawn::attention_pool(&d.enter("head"), &attention_pool_config(c), &x);
    }
    let patches = match c.prefix_rows() {
        0 => x,
        before => d.slice(&x, 1, &d.ints(&[before as i64])?, &d.ints(&[c.tokens() as i64])?)?,
    };
    let mean = d.mean(&patches, &[1], false);
    if c.pool == VitPool::MeanThenNorm { d.layer_norm("pooler.layernorm", &mean, c.layer_norm_eps) } else { Ok(mean) }
}

/// What is added to an image's rows, of which those before the patches are 0: tokens and positions, (1, tokens, width).
fn added_to_rows(c: &VitConfig, d: &Drawing) -> Result<Option<Tensor>> {
    if c.prefix_rows() == 0 && !c.positions {
        return Ok(None);
    }
    let like = d.tensor("patch_embedding.weight")?;
    let zeros = |rows: usize| Tensor::zeros((rows, c.width), DType::F32, like.device());
    let mut leading = vec![zeros(0)?];
    if c.prefix.class_token {
        leading.push(d.tensor("class_embedding")?.reshape((1, c.width))?);
    }
    if c.prefix.distillation_token {
        leading.push(d.tensor("distillation_token")?.reshape((1, c.width))?);
    }
    leading.push(zeros(c.grid() * c.grid())?);
    let mut rows = Tensor::cat(&leading, 0)?;
    if c.positions {
        let positions = d.tensor("position_embedding.weight")?;
        let without = zeros(c.leading() - c.position_rows_before_patches())?;
        rows = (rows + Tensor::cat(&[without, positions], 0)?)?;
    }
    if c.prefix.registers > 0 {
        rows = Tensor::cat(&[d.tensor("register_tokens")?, rows], 0)?;
    }
    Ok(Some(rows.unsqueeze(0)?))
}
