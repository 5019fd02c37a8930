//! A BERT as a graph.

use anyhow::Result;

use super::config::BertConfig;
use super::layers::stack_config;
use crate::model::graph::{Drawing, Edge};
use crate::model::layers::drawn;
use crate::model::text::pool::TextPool;
use crate::ops::Activation;

pub fn draw(c: &BertConfig, d: &Drawing, input_ids: &Edge, attention_mask: &Edge) -> Result<Edge> {
    let e = d.enter("embeddings");
    // Every token is of type 0, and stands at its place behind what the table begins with.
    let first = c.position_offset;
    let mut places = e.tensor("position_embedding.weight")?.narrow(0, first, c.positions - first)?;
    if c.token_types > 0 {
        places = places.broadcast_add(&e.tensor("token_type_embedding.weight")?.narrow(0, 0, 1)?)?;
    }
    let places = d.first_rows(&e.constant("position_embedding.weight", places), input_ids)?;
    let x = d.add(&d.gather(&e.weight("token_embedding.weight")?, input_ids, 0), &places);
    let x = e.layer_norm("layer_norm", &x, c.layer_norm_eps)?;
    let added = d.without_padding(attention_mask)?;
    let x = drawn::stack(d, &stack_config(c), x, Some(&added))?;
    let state = c.pool.draw(d, &x, attention_mask)?;
    match c.pool {
        TextPool::Dense => d.activation(Activation::Tanh, &d.linear("pooler.dense", &state)?),
        _ => Ok(state),
    }
}
