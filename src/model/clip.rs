//! A dual encoder: two towers, two projections, one scale, and for SigLIP a bias.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

use super::config::ClipConfig;
use super::layers::bag_pool::{BAG_POOLING, BagPool};
use super::layers::projection::Projector;
use super::params::{Builder, Init, ParamSpec, Part};
use super::text::tower::TextTower;
use super::vision::tower::VisionTower;
use crate::model::freeze::FreezeDepth;
use crate::ops::{self, Segments, Value, reference};

/// `logit_scale` is kept at or below this, ln 100, as CLIP does, unless it starts above.
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// The model over a set of weights. Building one is cheap: it holds the weights' tensors, not copies.
pub struct ClipModel {
    vision: Box<dyn VisionTower>,
    text: Box<dyn TextTower>,
    visual_projection: Projector,
    text_projection: Projector,
    bag_pool: BagPool,
    logit_scale: Value,        // ()
    logit_bias: Option<Value>, // ()
    embed_dim: usize,
}

impl ClipModel {
    /// Builds over the weights that `b` hands out.
    ///
    /// # Errors
    /// A weight that `b` does not have.
    pub fn new(config: &ClipConfig, b: &Builder) -> Result<Self> {
        let heads = b.part(Part::Heads);
        let projector = |name: &str, kind, width| Projector::new(&heads, name, kind, width, config.embed_dim);
        let bias = |start| heads.vector("logit_bias", (), Init::Const(start));
        Ok(Self {
            vision: config.vision.build(&b.enter("vision_model").part(Part::Image))?,
            text: config.text.build(&b.enter("text_model").part(Part::Text))?,
            visual_projection: projector("visual_projection", config.visual_projection, config.vision.width())?,
            text_projection: projector("text_projection", config.text_projection, config.text.width())?,
            bag_pool: BagPool::new(&heads.enter(BAG_POOLING), config.bag_pooling, config.embed_dim)?,
            logit_scale: heads.vector("logit_scale", (), Init::Const(config.logit_scale_init))?,
            logit_bias: config.logit_bias_init.map(bias).transpose()?,
            embed_dim: config.embed_dim,
        })
    }

    /// The same with other towers, which give features already.
    pub fn with_towers(self, vision: Box<dyn VisionTower>, text: Box<dyn TextTower>) -> Self {
        Self { vision, text, visual_projection: Projector::None, text_projection: Projector::None, ..self }
    }

    /// Width of the shared space.
    pub fn embed_dim(&self) -> usize {
        self.embed_dim
    }

    /// All weights of a model of this shape.
    ///
    /// # Errors
    /// None in practice; candle's signatures ask for it.
    pub fn specs(config: &ClipConfig) -> Result<Vec<ParamSpec>> {
        let specs = RefCell::new(Vec::new());
        Self::new(config, &Builder::declare(&specs))?;
        Ok(specs.into_inner())
    }

    /// pixel_values: (batch, 3, image_size, image_size), normalised → image_features (batch, embed_dim), not
    /// normalised.
    ///
    /// # Errors
    /// Images of another size.
    pub fn image_features(&self, pixel_values: &Tensor) -> Result<Value> {
        self.visual_projection.forward(&self.vision.forward(pixel_values)?)
    }

    /// [`Self::image_features`] with those of each patch: (batch, embed_dim) and below them (batch · patches,
    /// embed_dim), not normalised. A patch goes through what follows the blocks, projection included, as what stands
    /// for the image does.
    ///
    /// # Errors
    /// As there; a tower that keeps no patches.
    pub fn image_features_with_patches(&self, pixel_values: &Tensor) -> Result<Value> {
        let (whole, patches) = self.vision.with_patches(pixel_values)?;
        self.visual_projection.forward(&ops::concat_rows(&whole, &patches)?)
    }

    /// What the image layers that `frozen` names make of pixel_values: [`VisionConfig::frozen_numbers`] an image.
    ///
    /// [`VisionConfig::frozen_numbers`]: super::VisionConfig::frozen_numbers
    ///
    /// # Errors
    /// As [`Self::image_features`].
    pub fn frozen_image_features(&self, pixel_values: &Tensor, frozen: FreezeDepth) -> Result<Tensor> {
        Ok(self.vision.below(pixel_values, frozen)?.tensor().clone())
    }

    /// [`Self::image_features`] from what [`Self::frozen_image_features`] gave; (rows, width) as there.
    ///
    /// # Errors
    /// Another shape.
    pub fn image_features_above(&self, x: Tensor, frozen: FreezeDepth) -> Result<Value> {
        self.visual_projection.forward(&self.vision.above(x.into(), frozen)?)
    }

    /// One vector a bag, (bags, embed_dim), not normalised, of the image_features of its images, (images, embed_dim),
    /// which lie one bag after the other; `places`: of each image in its bag, 0 to 1.
    ///
    /// # Errors
    /// Other counts than `bags` says.
    pub fn pool_bags(&self, image_features: &Value, bags: &Segments, places: &[f32]) -> Result<Value> {
        self.bag_pool.forward(image_features, bags, places)
    }

    /// [`Self::pool_bags`] of rows that are L2-normalised already.
    ///
    /// # Errors
    /// As there.
    pub fn pool_unit_rows(&self, unit: &Value, bags: &Segments, places: &[f32]) -> Result<Value> {
        self.bag_pool.forward_unit(unit, bags, places)
    }

    /// A row a bag, L2-normalised, (bags, embed_dim), without gradient, as [`Self::pool_bags`] makes it; that of a bag
    /// of one image is the image's own, whatever other bags there are.
    ///
    /// # Errors
    /// As there.
    pub fn bag_embeds(&self, image_features: &Tensor, bags: &Segments, places: &[f32]) -> Result<Tensor> {
        let pooled = self.pool_bags(&image_features.clone().into(), bags, places)?;
        let (pooled, single) = (reference::l2_normalize(pooled.tensor())?, reference::l2_normalize(image_features)?);
        let count = bags.items();
        let row = |(bag, (first, length)): (usize, (usize, usize))| if length == 1 { count + first } else { bag };
        let rows: Vec<u32> = bags.spans().enumerate().map(|bag| row(bag) as u32).collect();
        let rows = Tensor::from_vec(rows, count, image_features.device())?;
        Tensor::cat(&[pooled, single], 0)?.index_select(&rows, 0)
    }

    /// The share of each image in its bag's vector; `None` where the largest numbers are taken. As there.
    ///
    /// # Errors
    /// As there.
    pub fn bag_shares(&self, image_features: &Value, bags: &Segments, places: &[f32]) -> Result<Option<Vec<f32>>> {
        self.bag_pool.shares(image_features, bags, places)
    }

    /// input_ids: (batch, tokens) u32, padded on the right → text_features (batch, embed_dim), not normalised.
    ///
    /// # Errors
    /// Longer texts than `context_length`, ids outside the vocabulary.
    pub fn text_features(&self, input_ids: &Tensor) -> Result<Value> {
        self.project_text(&self.text_states(input_ids)?)
    }

    /// [`Self::text_features`] with those of each token: (batch, embed_dim) and below them (rows, embed_dim), not
    /// normalised, and which rows are whose. A token goes through what follows the blocks, projection included, as what
    /// stands for the text does.
    ///
    /// # Errors
    /// As there; a tower that keeps no tokens.
    pub fn text_features_with_tokens(&self, input_ids: &Tensor) -> Result<(Value, Segments)> {
        let (whole, tokens, segments) = self.text.with_tokens(input_ids)?;
        Ok((self.text_projection.forward(&ops::concat_rows(&whole, &tokens)?)?, segments))
    }

    /// What the text tower alone makes of input_ids: (batch, width).
    ///
    /// # Errors
    /// As [`Self::text_features`].
    pub fn text_states(&self, input_ids: &Tensor) -> Result<Value> {
        self.text.forward(input_ids)
    }

    /// [`Self::text_features`] from what [`Self::text_states`] gave.
    ///
    /// # Errors
    /// Another width.
    pub fn project_text(&self, states: &Value) -> Result<Value> {
        self.text_projection.forward(states)
    }

    /// [`Self::image_features`], rows L2-normalised, without gradient.
    ///
    /// # Errors
    /// As there.
    pub fn image_embeds(&self, pixel_values: &Tensor) -> Result<Tensor> {
        reference::l2_normalize(self.image_features(pixel_values)?.tensor())
    }

    /// [`Self::text_features`], rows L2-normalised, without gradient.
    ///
    /// # Errors
    /// As there.
    pub fn text_embeds(&self, input_ids: &Tensor) -> Result<Tensor> {
        reference::l2_normalize(self.text_features(input_ids)?.tensor())
    }

    /// The logarithm of what similarities are multiplied by, a scalar.
    pub fn logit_scale(&self) -> &Value {
        &self.logit_scale
    }

    /// What is added to scaled similarities, a scalar; `None` where the model has none.
    pub fn logit_bias(&self) -> Option<&Value> {
        self.logit_bias.as_ref()
    }

    /// `logit_scale.exp()`, without gradient.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn scale(&self) -> Result<Tensor> {
        self.logit_scale.tensor().exp()
    }
}
