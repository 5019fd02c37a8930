//! BERT and its kin: ClinicalBERT, PubMedBERT, MiniLM, RoBERTa, XLM-R, DistilBERT. They differ in where positions start
//! and whether there are token types.

use candle_core::{Result, Tensor};

use super::config::BertConfig;
use crate::model::layers::linear::Linear;
use crate::model::layers::norm::LayerNorm;
use crate::model::layers::transformer::{Stack, StackConfig};
use crate::model::params::{Builder, Depth, Init};
use crate::model::text::pool::TextPool;
use crate::model::text::tower::{PackedTexts, TextTower};
use crate::ops::{self, Activation, Segments, Value};

pub struct Bert {
    token_embedding: Value,              // (vocab_size, width)
    position_embedding: Value,           // (positions, width)
    token_type_embedding: Option<Value>, // (token_types, width)
    norm: LayerNorm,
    stack: Stack,
    pooler: Option<Linear>,
    config: BertConfig,
}

impl Bert {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &BertConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let table = |name: &str, rows: usize| e.vector(name, (rows, c.width), Init::Normal(0.02));
        let last = b.enter("pooler").depth(Depth::Final);
        Ok(Self {
            token_embedding: e.matrix("token_embedding.weight", (c.vocab_size, c.width), Init::Normal(0.02))?,
            position_embedding: table("position_embedding.weight", c.positions)?,
            token_type_embedding: (c.token_types > 0)
                .then(|| table("token_type_embedding.weight", c.token_types))
                .transpose()?,
            norm: LayerNorm::new(&e, "layer_norm", c.width, c.layer_norm_eps)?,
            stack: Stack::new(b, &stack_config(c))?,
            pooler: (c.pool == TextPool::Dense)
                .then(|| Linear::new(&last, "dense", c.width, c.width, 0.02))
                .transpose()?,
            config: c.clone(),
        })
    }
}

pub(super) fn stack_config(c: &BertConfig) -> StackConfig {
    StackConfig {
        width: c.width,
        intermediate: c.intermediate,
        layers: c.layers,
        heads: c.heads,
        activation: c.activation,
        layer_norm_eps: c.layer_norm_eps,
        causal: false,
        post_norm: true,
        key_bias: true,
        layer_scale: false,
        relative: None,
    }
}

impl Bert {
    /// Embeddings of the texts' tokens, (rows, width), and which are whose. Padding is left out: texts lie one after
    /// the other.
    fn embedded(&self, input_ids: &Tensor) -> Result<(Value, Segments)> {
        let c = &self.config;
        let PackedTexts { ids, segments, positions } = PackedTexts::of(input_ids, c, c.pad_id)?;
        let positions: Vec<u32> = positions.into_iter().map(|place| place + c.position_offset as u32).collect();
        let mut x = ops::embedding(&self.token_embedding, &ids)?;
        x = ops::add_embedding(&x, &self.position_embedding, &positions)?;
        if let Some(types) = &self.token_type_embedding {
            x = ops::add_embedding(&x, types, &vec![0; positions.len()])?;
        }
        Ok((self.norm.forward(&x)?, segments))
    }

    fn through_pooler(&self, states: Value) -> Result<Value> {
        match &self.pooler {
            Some(pooler) => Activation::Tanh.apply(&pooler.forward(&states)?),
            None => Ok(states),
        }
    }
}

impl TextTower for Bert {
    fn forward(&self, input_ids: &Tensor) -> Result<Value> {
        let (x, segments) = self.embedded(input_ids)?;
        let Some(pooled) = self.config.pool.rows(&segments) else {
            return ops::mean_rows(&self.stack.forward_all(0, x, &segments)?, &segments);
        };
        self.through_pooler(self.stack.forward_pooled(0, x, &segments, &pooled)?)
    }

    fn with_tokens(&self, input_ids: &Tensor) -> Result<(Value, Value, Segments)> {
        let (x, segments) = self.embedded(input_ids)?;
        let tokens = self.through_pooler(self.stack.forward_all(0, x, &segments)?)?;
        Ok((self.config.pool.rows_of(&tokens, &segments)?, tokens, segments))
    }
}
