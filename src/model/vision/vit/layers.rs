//! Vision transformers: CLIP's, ViT, DeiT, DINOv2 with and without registers, BEiT, SigLIP's. They differ in what
//! stands before the patches, in a norm here and there, and in what stands for the whole image.

use std::rc::Rc;

use candle_core::{Result, Tensor, bail};

use super::config::{VitConfig, VitPool};
use crate::model::freeze::FreezeDepth;
use crate::model::layers::attention_pool::{AttentionPool, AttentionPoolConfig};
use crate::model::layers::linear::Linear;
use crate::model::layers::noise::Noise;
use crate::model::layers::norm::LayerNorm;
use crate::model::layers::transformer::{RelativePositions, Stack, StackConfig};
use crate::model::params::{Builder, Depth, Init};
use crate::model::vision::tower::VisionTower;
use crate::ops::{self, Activation, Segments, Value};

pub struct Vit {
    class_embedding: Option<Value>,    // (width)
    distillation_token: Option<Value>, // (width)
    register_tokens: Option<Value>,    // (registers, width)
    patch_embedding: Value,            // (width, 3, patch, patch)
    patch_bias: Option<Value>,         // (width)
    position_embedding: Option<Value>, // (rows, width)
    pre_norm: Option<LayerNorm>,
    stack: Stack,
    final_norm: Option<LayerNorm>,
    head: Head,
    noise: Option<Rc<Noise>>,
    config: VitConfig,
}

enum Head {
    Rows,
    Dense(Linear),
    Norm(LayerNorm),
    Attention(Box<AttentionPool>),
}

impl Vit {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &VitConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let (top, last) = (b.depth(Depth::Embeddings), b.depth(Depth::Final));
        let token = |name: &str| e.vector(name, c.width, Init::Normal((c.width as f64).powf(-0.5)));
        let norm = |b: &Builder, name: &str| LayerNorm::new(b, name, c.width, c.layer_norm_eps);
        let positions = c.position_rows_before_patches() + c.grid() * c.grid();
        let patch = (c.width, 3, c.patch_size, c.patch_size);
        let registers = (c.prefix.registers, c.width);
        Ok(Self {
            class_embedding: c.prefix.class_token.then(|| token("class_embedding")).transpose()?,
            distillation_token: c.prefix.distillation_token.then(|| token("distillation_token")).transpose()?,
            register_tokens: (c.prefix.registers > 0)
                .then(|| e.vector("register_tokens", registers, Init::Normal(0.02)))
                .transpose()?,
            patch_embedding: e.matrix("patch_embedding.weight", patch, Init::Normal(0.02))?,
            patch_bias: c
                .patch_bias
                .then(|| e.vector("patch_embedding.bias", c.width, Init::Const(0.0)))
                .transpose()?,
            position_embedding: c
                .positions
                .then(|| e.vector("position_embedding.weight", (positions, c.width), Init::Normal(0.02)))
                .transpose()?,
            // The published weights spell it so.
            pre_norm: c.pre_norm.then(|| norm(&top, "pre_layrnorm")).transpose()?,
            stack: Stack::new(b, &stack_config(c))?,
            final_norm: c.final_norm.then(|| norm(&last, "post_layernorm")).transpose()?,
            head: match c.pool {
                VitPool::Cls | VitPool::Mean => Head::Rows,
                VitPool::Dense => {
                    let std = (c.width as f64).powf(-0.5);
                    Head::Dense(Linear::new(&last.enter("pooler"), "dense", c.width, c.width, std)?)
                }
                VitPool::MeanThenNorm => Head::Norm(norm(&last.enter("pooler"), "layernorm")?),
                VitPool::Attention => {
                    Head::Attention(Box::new(AttentionPool::new(&last.enter("head"), &attention_pool_config(c))?))
                }
            },
            noise: b.noise_here().map(|(noise, _)| noise),
            config: c.clone(),
        })
    }

    /// How many blocks stand below the lowest trained weight, never counting the last, of which only one token may be
    /// worked out; `None` where the whole tower is frozen.
    fn blocks_below(&self, frozen: FreezeDepth) -> Option<usize> {
        match frozen {
            FreezeDepth::None => Some(0),
            FreezeDepth::Blocks(n) => Some(n.min(self.config.layers.saturating_sub(1))),
            FreezeDepth::All => None,
        }
    }

    /// → (batch · tokens, width), registers before the class token: they have no position, and attention does not ask
    /// for an order.
    fn embed(&self, pixel_values: &Tensor) -> Result<Value> {
        let (batch, c) = (pixel_values.dim(0)?, &self.config);
        let patches = c.grid() * c.grid();
        let mut x = self.patches(pixel_values)?;
        if let Some(positions) = self.position_embedding.as_ref().filter(|_| !c.prefix_positions) {
            x = ops::add_embedding(&x, positions, &counted(batch, patches))?;
        }
        for token in [&self.distillation_token, &self.class_embedding].into_iter().flatten() {
            x = ops::prepend(token, &x, batch)?;
        }
        if let Some(positions) = self.position_embedding.as_ref().filter(|_| c.prefix_positions) {
            x = ops::add_embedding(&x, positions, &counted(batch, c.leading() + patches))?;
        }
        if let Some(registers) = &self.register_tokens {
            x = ops::prepend(registers, &x, batch)?;
        }
        self.pre_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }

    /// The blocks from `from` up, and what is made of their rows, `tokens` an image.
    fn upper(&self, x: Value, from: usize, tokens: usize) -> Result<Value> {
        let c = &self.config;
        let batch = x.tensor().dim(0)? / tokens;
        let segments = Segments::even(batch, tokens);
        let normed = |x: Value| self.final_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x));
        if matches!(c.pool, VitPool::Cls | VitPool::Dense) {
            let classes: Vec<u32> = (0..batch).map(|i| (i * tokens + c.prefix.registers) as u32).collect();
            let state = normed(self.stack.forward_pooled(from, x, &segments, &classes)?)?;
            return self.headed(&state);
        }
        let x = normed(self.stack.forward_all(from, x, &segments)?)?;
        if let Head::Attention(pool) = &self.head {
            return pool.forward(&x, &segments);
        }
        let patches = Segments::even(batch, tokens - c.prefix_rows());
        self.headed(&ops::mean_rows(&self.only_patches(&x, batch, tokens)?, &patches)?)
    }

    /// What the head, but for attention, makes of rows that stand for an image or a patch.
    fn headed(&self, x: &Value) -> Result<Value> {
        match &self.head {
            Head::Norm(norm) => norm.forward(x),
            Head::Dense(dense) => Activation::Tanh.apply(&dense.forward(x)?),
            Head::Rows | Head::Attention(_) => Ok(x.clone()),
        }
    }

    /// [`Self::upper`] from the first block, with all patches. Each patch goes through the head as what stands for the
    /// image does; attention's head sees it alone, which is what it adds up, passed on (MaskCLIP, arXiv 2112.01071).
    fn upper_with_patches(&self, x: Value, tokens: usize) -> Result<(Value, Value)> {
        let c = &self.config;
        let batch = x.tensor().dim(0)? / tokens;
        let segments = Segments::even(batch, tokens);
        let x = self.stack.forward_all(0, x, &segments)?;
        let x = self.final_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
        let patches = self.only_patches(&x, batch, tokens)?;
        let each = Segments::even(batch, tokens - c.prefix_rows());
        if let Head::Attention(pool) = &self.head {
            return Ok((pool.forward(&x, &segments)?, pool.forward(&patches, &Segments::even(each.rows(), 1))?));
        }
        let whole = if matches!(c.pool, VitPool::Cls | VitPool::Dense) {
            let classes: Vec<u32> = (0..batch).map(|i| (i * tokens + c.prefix.registers) as u32).collect();
            ops::select_rows(&x, &classes)?
        } else {
            ops::mean_rows(&patches, &each)?
        };
        Ok((self.headed(&whole)?, self.headed(&patches)?))
    }

    fn only_patches(&self, x: &Value, batch: usize, tokens: usize) -> Result<Value> {
        let before = self.config.prefix_rows();
        if before == 0 {
            return Ok(x.clone());
        }
        let rows: Vec<u32> = (0..batch * tokens).filter(|row| row % tokens >= before).map(|row| row as u32).collect();
        ops::select_rows(x, &rows)
    }

    /// A convolution whose stride is its kernel is a product over flattened patches; candle's conv2d would also compute
    /// the gradient of the pixels, which costs more than this whole layer.
    fn patches(&self, pixel_values: &Tensor) -> Result<Value> {
        let c = &self.config;
        let (_, channels, height, width) = pixel_values.dims4()?;
        if (channels, height, width) != (3, c.image_size, c.image_size) {
            bail!("pixel_values are {channels}×{height}×{width}, the model takes 3×{0}×{0}", c.image_size);
        }
        let (grid, patch) = (c.grid(), c.patch_size);
        let flat = ops::patchify(pixel_values, grid, patch)?;
        let weight = self.patch_embedding.reshape((c.width, channels * patch * patch))?;
        match &self.patch_bias {
            Some(bias) => ops::linear(&flat.into(), &weight, bias),
            None => ops::linear_no_bias(&flat.into(), &weight),
        } // (batch · grid², width)
    }
}

impl Vit {
    /// What the blocks read, and how many rows an image has left.
    fn lower(&self, pixel_values: &Tensor) -> Result<(Value, usize)> {
        let (batch, c) = (pixel_values.dim(0)?, &self.config);
        let x = self.embed(pixel_values)?;
        let before = c.prefix_rows();
        let kept = self.noise.as_ref().and_then(|noise| noise.kept_patches(batch, c.grid() * c.grid()));
        let Some(kept) = kept else { return Ok((x, c.tokens())) };
        // Of each image the rows before its patches, and the patches that stay (FLIP, arXiv 2212.00794).
        let tokens = before + kept[0].len();
        let rows = kept.iter().enumerate().flat_map(|(i, kept)| {
            let inside = (0..before).chain(kept.iter().map(move |patch| before + patch));
            inside.map(move |row| (i * c.tokens() + row) as u32)
        });
        Ok((ops::select_rows(&x, &rows.collect::<Vec<_>>())?, tokens))
    }
}

impl VisionTower for Vit {
    fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        let (x, tokens) = self.lower(pixel_values)?;
        self.upper(x, 0, tokens)
    }

    fn with_patches(&self, pixel_values: &Tensor) -> Result<(Value, Value)> {
        let (x, tokens) = self.lower(pixel_values)?;
        self.upper_with_patches(x, tokens)
    }

    fn below(&self, pixel_values: &Tensor, frozen: FreezeDepth) -> Result<Value> {
        match self.blocks_below(frozen) {
            Some(blocks) => {
                let x = self.embed(pixel_values)?;
                let segments = Segments::even(pixel_values.dim(0)?, self.config.tokens());
                self.stack.forward(0..blocks, x, &segments)
            }
            None => self.forward(pixel_values),
        }
    }

    fn above(&self, x: Value, frozen: FreezeDepth) -> Result<Value> {
        match self.blocks_below(frozen) {
            Some(blocks) => self.upper(x, blocks, self.config.tokens()),
            None => Ok(x),
        }
    }
}

/// 0, 1, … `each` − 1 for each of `batch` items.
fn counted(batch: usize, each: usize) -> Vec<u32> {
    (0..batch).flat_map(|_| 0..each as u32).collect()
}

pub(super) fn attention_pool_config(c: &VitConfig) -> AttentionPoolConfig {
    AttentionPoolConfig {
        width: c.width,
        intermediate: c.intermediate,
        heads: c.heads,
        activation: c.activation,
        layer_norm_eps: c.layer_norm_eps,
    }
}

pub(super) fn stack_config(c: &VitConfig) -> StackConfig {
    StackConfig {
        width: c.width,
        intermediate: c.intermediate,
        layers: c.layers,
        heads: c.heads,
        activation: c.activation,
        layer_norm_eps: c.layer_norm_eps,
        causal: false,
        post_norm: false,
        key_bias: c.key_bias,
        layer_scale: c.layer_scale,
        relative: c.relative_positions.then(|| relative_positions(c.grid())),
    }
}

/// BEiT's table: one entry for each offset between two patches, and three for class to patch, patch to class and class
/// to class.
fn relative_positions(grid: usize) -> RelativePositions {
    let (span, tokens) = (2 * grid - 1, 1 + grid * grid);
    let entries = span * span + 3;
    let entry = |q: usize, k: usize| match (q, k) {
        (0, 0) => entries - 1,
        (0, _) => entries - 3,
        (_, 0) => entries - 2,
        (q, k) => {
            let ((qy, qx), (ky, kx)) = (((q - 1) / grid, (q - 1) % grid), ((k - 1) / grid, (k - 1) % grid));
            (qy + grid - 1 - ky) * span + (qx + grid - 1 - kx)
        }
    };
    RelativePositions { entries, index: (0..tokens * tokens).map(|i| entry(i / tokens, i % tokens) as u32).collect() }
}
