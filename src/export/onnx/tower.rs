//! Graphs in the place of towers: a model's own encoder then measures what they give.

use candle_core::{DType, Result, Tensor};

use super::run::run;
use crate::model::graph::Graph;
use crate::model::{TextTower, VisionTower};
use crate::ops::Value;

/// A graph of one tower with its projection.
pub struct GraphTower {
    pub graph: Graph,
    /// What texts are padded with.
    pub pad_id: u32,
}

impl GraphTower {
    fn run(&self, inputs: &[(&str, Tensor)]) -> Result<Value> {
        let made = run(&self.graph, inputs).map_err(|e| candle_core::Error::Msg(format!("{e:#}")))?;
        match made.into_values().next() {
            Some(features) => Ok(features.into()),
            None => candle_core::bail!("the graph gives nothing"),
        }
    }
}

impl VisionTower for GraphTower {
    fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        self.run(&[("pixel_values", pixel_values.clone())])
    }
}

impl TextTower for GraphTower {
    fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let mask = attention_mask(input_ids, self.pad_id)?;
        self.run(&[("input_ids", input_ids.to_dtype(DType::I64)?), ("attention_mask", mask)])
    }
}

/// 1 up to the last token that is no padding, never 0 altogether: as towers see texts. input_ids: (texts, tokens).
pub fn attention_mask(input_ids: &Tensor, pad_id: u32) -> Result<Tensor> {
    let rows: Vec<Vec<u32>> = input_ids.to_vec2()?;
    let row = |row: &Vec<u32>| {
        let length = row.iter().rposition(|&id| id != pad_id).map_or(1, |last| last + 1);
        (0..row.len()).map(|i| i64::from(i < length)).collect::<Vec<_>>()
    };
    Tensor::new(rows.iter().map(row).collect::<Vec<_>>(), input_ids.device())
}
