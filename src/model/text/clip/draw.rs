//! CLIP's text transformer as a graph.

use anyhow::Result;

use super::config::{ClipTextConfig, EosRule};
use super::layers::stack_config;
use crate::model::graph::{Attribute, Drawing, Edge, INT32};
use crate::model::layers::drawn;

pub fn draw(c: &ClipTextConfig, d: &Drawing, input_ids: &Edge, _attention_mask: &Edge) -> Result<Edge> {
    let e = d.enter("embeddings");
    let x = d.gather(&e.weight("token_embedding.weight")?, input_ids, 0);
    let x = d.add(&x, &d.first_rows(&e.weight("position_embedding.weight")?, input_ids)?);
    let added = if c.causal { Some(causal(d, input_ids)?) } else { None };
    let x = drawn::stack(d, &stack_config(c), x, added.as_ref())?;
    // Behind a text's last token stands what is not looked at, or what the model was trained to look at.
    let state = match c.eos {
        EosRule::LastRow => d.gather(&x, &d.int(-1)?, 1),
        rule => {
            let marks = match rule {
                EosRule::FirstEqual(id) => d.op("Equal", &[input_ids, &d.int(i64::from(id))?]),
                EosRule::HighestId | EosRule::LastRow => input_ids.clone(),
            };
            let along = [("axis", Attribute::Int(1)), ("keepdims", Attribute::Int(0))];
            d.rows_at(&x, &d.op_with("ArgMax", &[&d.cast(&marks, INT32)], &along))?
        }
    };
    d.layer_norm("final_layer_norm", &state, c.layer_norm_eps)
}

/// What is added to scores so that a token sees none behind it: (tokens, tokens).
fn causal(d: &Drawing, input_ids: &Edge) -> Result<Edge> {
    let keys = d.places(input_ids)?;
    let queries = d.op("Unsqueeze", &[&keys, &d.ints(&[1])?]);
    d.unless_seen(&d.op("LessOrEqual", &[&keys, &queries]))
}
