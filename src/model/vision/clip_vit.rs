//! CLIP's vision transformer.

use candle_core::{Result, Tensor, bail};

use crate::config::FreezeDepth;
use crate::model::block::{LayerNorm, Stack, StackConfig};
use crate::model::config::VisionConfig;
use crate::model::params::{Builder, Depth, Init, Part};
use crate::ops::{self, Segments, Value};

pub(in crate::model) struct ClipVit {
    class_embedding: Value,    // (width)
    patch_embedding: Value,    // (width, channels, patch, patch)
    position_embedding: Value, // (1 + grid², width)
    pre_norm: LayerNorm,
    stack: Stack,
    post_norm: LayerNorm,
    config: VisionConfig,
}

impl ClipVit {
    pub fn new(b: &Builder, c: &VisionConfig) -> Result<Self> {
        let b = b.enter("vision_model").part(Part::Image);
        let embeddings = b.enter("embeddings").depth(Depth::Embeddings);
        let patch = (c.width, c.channels, c.patch_size, c.patch_size);
        let stack = StackConfig {
            width: c.width,
            intermediate: c.intermediate,
            layers: c.layers,
            heads: c.heads,
            activation: c.activation,
            layer_norm_eps: c.layer_norm_eps,
            causal: false,
        };
        Ok(Self {
            class_embedding: embeddings.vector(
                "class_embedding",
                c.width,
                Init::Normal((c.width as f64).powf(-0.5)),
            )?,
            patch_embedding: embeddings.matrix("patch_embedding.weight", patch, Init::Normal(0.02))?,
            position_embedding: embeddings.vector(
                "position_embedding.weight",
                (1 + c.grid() * c.grid(), c.width),
                Init::Normal(0.02),
            )?,
            // The published weights spell it so.
            pre_norm: LayerNorm::new(&b.depth(Depth::Embeddings), "pre_layrnorm", c.width, c.layer_norm_eps)?,
            stack: Stack::new(&b, &stack)?,
            post_norm: LayerNorm::new(&b.depth(Depth::Final), "post_layernorm", c.width, c.layer_norm_eps)?,
            config: c.clone(),
        })
    }

    /// pixel_values: (batch, channels, image_size, image_size) → (batch, width), the class token's state.
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        self.upper(self.embed(pixel_values)?, 0)
    }

    /// What the layers that `frozen` names make of pixel_values; [`Self::above`] goes on from there.
    pub fn below(&self, pixel_values: &Tensor, frozen: FreezeDepth) -> Result<Value> {
        match self.blocks_below(frozen) {
            Some(blocks) => {
                let x = self.embed(pixel_values)?;
                let segments = Segments::even(pixel_values.dim(0)?, self.config.tokens());
                self.stack.forward(0..blocks, x, &segments)
            }
            None => self.forward(pixel_values),
        }
    }

    /// [`Self::below`]'s output → (batch, width), the class token's state.
    pub fn above(&self, x: Value, frozen: FreezeDepth) -> Result<Value> {
        match self.blocks_below(frozen) {
            Some(blocks) => self.upper(x, blocks),
            None => Ok(x),
        }
    }

    /// How many blocks stand below the lowest trained weight, never counting the last, of which only one token is
    /// worked out; `None` where the whole tower is frozen.
    fn blocks_below(&self, frozen: FreezeDepth) -> Option<usize> {
        match frozen {
            FreezeDepth::None => Some(0),
            FreezeDepth::Blocks(n) => Some(n.min(self.config.layers.saturating_sub(1))),
            FreezeDepth::All => None,
        }
    }

    /// → (batch · tokens, width)
    fn embed(&self, pixel_values: &Tensor) -> Result<Value> {
        let batch = pixel_values.dim(0)?;
        let x = ops::prepend(&self.class_embedding, &self.patches(pixel_values)?, batch)?;
        let positions: Vec<u32> = (0..batch).flat_map(|_| 0..self.config.tokens() as u32).collect();
        self.pre_norm.forward(&ops::add_embedding(&x, &self.position_embedding, &positions)?)
    }

    /// The blocks from `from` up, for the class token alone.
    fn upper(&self, x: Value, from: usize) -> Result<Value> {
        let tokens = self.config.tokens();
        let batch = x.tensor().dim(0)? / tokens;
        let classes: Vec<u32> = (0..batch).map(|i| (i * tokens) as u32).collect();
        self.post_norm.forward(&self.stack.forward_pooled_from(from, x, &Segments::even(batch, tokens), &classes)?)
    }

    /// A convolution whose stride is its kernel is a product over flattened patches; candle's conv2d would also compute
    /// the gradient of the pixels, which costs more than this whole layer.
    fn patches(&self, pixel_values: &Tensor) -> Result<Value> {
        let c = &self.config;
        let (batch, channels, height, width) = pixel_values.dims4()?;
        if (channels, height, width) != (c.channels, c.image_size, c.image_size) {
            bail!(
                "pixel_values are {channels}×{height}×{width}, the model takes {0}×{1}×{1}",
                c.channels,
                c.image_size
            );
        }
        let (grid, patch) = (c.grid(), c.patch_size);
        let flat = pixel_values
            .narrow(2, 0, grid * patch)?
            .narrow(3, 0, grid * patch)?
            .reshape((batch, channels, grid, patch, grid, patch))?
            .permute((0, 2, 4, 1, 3, 5))?
            .reshape((batch * grid * grid, channels * patch * patch))?;
        let weight = self.patch_embedding.reshape((c.width, channels * patch * patch))?;
        ops::linear_no_bias(&flat.into(), &weight) // (batch · grid², width)
    }
}
