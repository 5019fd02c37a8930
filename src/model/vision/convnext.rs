//! ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808).

use anyhow::ensure;
use candle_core::{Result, Tensor, bail};

use crate::model::block::{LayerNorm, Linear};
use crate::model::params::{Builder, Depth, Init};
use crate::ops::{self, Activation, Conv2d, Maps, Segments, Value};

/// The shape of a ConvNeXt.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvNextConfig {
    /// Width of each stage.
    pub hidden: Vec<usize>,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Pixels a side that one place of the first map sees.
    pub patch_size: usize,
    /// Pixels a side.
    pub image_size: usize,
    /// Activation.
    pub activation: Activation,
    /// Epsilon of the last norm; that of the others is 1e-6.
    pub layer_norm_eps: f64,
    /// Layer scale (the first version).
    pub layer_scale: bool,
    /// Global response normalisation (the second).
    pub response_norm: bool,
    /// Whether the mean of the last map goes through a norm.
    pub pooler_norm: bool,
}

impl ConvNextConfig {
    /// Width of an image's state.
    pub fn width(&self) -> usize {
        self.hidden.last().copied().unwrap_or(0)
    }

    pub(in crate::model) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.hidden.is_empty() && self.hidden.len() == self.depths.len(),
            "hidden_sizes {:?} and depths {:?} do not belong together",
            self.hidden,
            self.depths
        );
        let smallest = self.patch_size << (self.hidden.len() - 1);
        ensure!(self.image_size >= smallest, "image_size is {}; allowed is at least {smallest}", self.image_size);
        Ok(())
    }

    /// Numbers kept for the backward pass of one image, about: a block keeps 3 + 2 · 4 widths a place.
    pub(in crate::model) fn activations(&self) -> usize {
        let places = |stage: usize| (self.image_size / (self.patch_size << stage)).pow(2);
        let stages = self.hidden.iter().zip(&self.depths).enumerate();
        stages.map(|(stage, (width, depth))| places(stage) * depth * 11 * width).sum()
    }
}

pub(in crate::model) struct ConvNext {
    patches: Conv,
    norm: LayerNorm,
    stages: Vec<Stage>,
    pooler_norm: Option<LayerNorm>,
    config: ConvNextConfig,
}

struct Stage {
    /// The norm before, and a convolution whose stride is its kernel.
    downsampling: Option<(LayerNorm, Conv)>,
    blocks: Vec<Block>,
}

const EPS: f64 = 1e-6;

impl ConvNext {
    pub fn new(b: &Builder, c: &ConvNextConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let (mut stages, mut block, mut inner) = (Vec::new(), 0, 3);
        for (s, (&width, &depth)) in c.hidden.iter().zip(&c.depths).enumerate() {
            let b = b.enter(&format!("encoder.stages.{s}")).depth(Depth::Block(block));
            let downsampling = match s {
                0 => None,
                _ => {
                    let norm = LayerNorm::new(&b, "downsampling_layer.0", inner, EPS)?;
                    Some((norm, Conv::new(&b, "downsampling_layer.1", (inner, width), 2)?))
                }
            };
            let mut blocks = Vec::new();
            for l in 0..depth {
                blocks.push(Block::new(&b.enter(&format!("layers.{l}")).depth(Depth::Block(block)), c, width)?);
                block += 1;
            }
            stages.push(Stage { downsampling, blocks });
            inner = width;
        }
        let last = b.depth(Depth::Final);
        Ok(Self {
            patches: Conv::new(&e, "patch_embeddings", (3, c.hidden[0]), c.patch_size)?,
            norm: LayerNorm::new(&e, "layernorm", c.hidden[0], EPS)?,
            stages,
            pooler_norm: c
                .pooler_norm
                .then(|| LayerNorm::new(&last, "layernorm", c.width(), c.layer_norm_eps))
                .transpose()?,
            config: c.clone(),
        })
    }

    /// pixel_values: (batch, 3, image_size, image_size) → (batch, width).
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        let (pixels, maps) = Maps::from_pixels(pixel_values)?;
        if (maps.height, maps.width) != (self.config.image_size, self.config.image_size) {
            bail!("pixel_values are {}×{}, the model takes {2}×{2}", maps.height, maps.width, self.config.image_size);
        }
        let (x, mut maps) = self.patches.forward(&pixels.into(), maps)?;
        let mut x = self.norm.forward(&x)?;
        for stage in &self.stages {
            if let Some((norm, conv)) = &stage.downsampling {
                (x, maps) = conv.forward(&norm.forward(&x)?, maps)?;
            }
            for block in &stage.blocks {
                x = block.forward(&x, maps)?;
            }
        }
        let mean = ops::mean_rows(&x, &Segments::even(maps.items, maps.height * maps.width))?;
        self.pooler_norm.as_ref().map_or(Ok(mean.clone()), |norm| norm.forward(&mean))
    }
}

/// A convolution whose stride is its kernel.
struct Conv {
    weight: Value, // (out, in, kernel, kernel)
    bias: Value,   // (out)
    kernel: usize,
}

impl Conv {
    fn new(b: &Builder, name: &str, (inner, outer): (usize, usize), kernel: usize) -> Result<Self> {
        let b = b.enter(name);
        Ok(Self {
            weight: b.matrix("weight", (outer, inner, kernel, kernel), Init::Normal(0.02))?,
            bias: b.vector("bias", outer, Init::Const(0.0))?,
            kernel,
        })
    }

    fn forward(&self, x: &Value, maps: Maps) -> Result<(Value, Maps)> {
        let (weight, bias) = (&self.weight, Some(&self.bias));
        Conv2d { weight, bias, residual: None, stride: self.kernel, padding: 0, relu: false }.apply(x, maps)
    }
}

struct Block {
    depthwise: (Value, Value), // (width, 1, 7, 7), (width)
    norm: LayerNorm,
    first: Linear,
    response_norm: Option<(Value, Value)>, // (4 · width) each
    second: Linear,
    layer_scale: Option<Value>, // (width)
    activation: Activation,
}

impl Block {
    fn new(b: &Builder, c: &ConvNextConfig, width: usize) -> Result<Self> {
        let d = b.enter("dwconv");
        let grn = b.enter("grn");
        let response_norm = || -> Result<_> {
            Ok((grn.vector("weight", 4 * width, Init::Const(0.0))?, grn.vector("bias", 4 * width, Init::Const(0.0))?))
        };
        Ok(Self {
            depthwise: (
                d.matrix("weight", (width, 1, 7, 7), Init::Normal(0.02))?,
                d.vector("bias", width, Init::Const(0.0))?,
            ),
            norm: LayerNorm::new(b, "layernorm", width, EPS)?,
            first: Linear::new(b, "pwconv1", width, 4 * width, 0.02)?,
            response_norm: c.response_norm.then(response_norm).transpose()?,
            second: Linear::new(b, "pwconv2", 4 * width, width, 0.02)?,
            layer_scale: c
                .layer_scale
                .then(|| b.vector("layer_scale_parameter", width, Init::Const(1e-6)))
                .transpose()?,
            activation: c.activation,
        })
    }

    fn forward(&self, x: &Value, maps: Maps) -> Result<Value> {
        let y = ops::depthwise_conv(x, maps, &self.depthwise.0, &self.depthwise.1)?;
        let hidden = self.first.forward(&self.norm.forward(&y)?)?;
        let second = self.second.scaled(self.layer_scale.as_ref())?;
        match &self.response_norm {
            Some((weight, bias)) => {
                let active = self.activation.apply(&hidden)?;
                second.onto(x, &ops::response_norm(&active, maps, weight, bias)?)
            }
            None => second.activated_onto(x, &hidden, self.activation),
        }
    }
}
