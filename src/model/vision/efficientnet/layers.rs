//! EfficientNet (arXiv 1905.11946) and EfficientNet-Lite, whose blocks neither squeeze nor use a smooth activation.

use candle_core::{Result, Tensor, bail};

use super::config::{EfficientNetConfig, Margin, MbConvConfig};
use crate::model::layers::conv_norm::{BatchNorm, ConvConfig, ConvNorm};
use crate::model::params::{Builder, Depth, Init};
use crate::model::vision::tower::VisionTower;
use crate::ops::{self, Activation, Maps, Segments, Value};

pub struct EfficientNet {
    stem: ConvNorm,
    blocks: Vec<MbConv>,
    top: ConvNorm,
    config: EfficientNetConfig,
}

impl EfficientNet {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &EfficientNetConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let stem = ConvConfig { inner: 3, outer: c.stem, kernel: 3, stride: 2, padding: 0 };
        let stem_norm = BatchNorm::new(&e, "batchnorm", c.stem, c.batch_norm_eps)?;
        let encoder = b.enter("encoder");
        let block = |(i, block): (usize, &MbConvConfig)| {
            MbConv::new(&encoder.enter(&format!("blocks.{i}")).depth(Depth::Block(i)), block, c)
        };
        let blocks = c.blocks.iter().enumerate().map(block).collect::<Result<_>>()?;
        let last = encoder.depth(Depth::Final);
        let inner = c.blocks.last().map_or(c.stem, |block| block.outer);
        let top_norm = BatchNorm::new(&last, "top_bn", c.width, c.batch_norm_eps)?;
        Ok(Self {
            stem: ConvNorm::new(&e, "convolution", stem_norm, stem)?,
            blocks,
            top: ConvNorm::new(&last, "top_conv", top_norm, pointwise(inner, c.width))?,
            config: c.clone(),
        })
    }
}

impl VisionTower for EfficientNet {
    fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        Ok(self.with_patches(pixel_values)?.0)
    }

    fn with_patches(&self, pixel_values: &Tensor) -> Result<(Value, Value)> {
        let (size, activation) = (self.config.image_size, self.config.activation);
        let (_, _, height, width) = pixel_values.dims4()?;
        if (height, width) != (size, size) {
            bail!("pixel_values are {height}×{width}, the model takes {size}×{size}");
        }
        // The stem's margin is one pixel behind the last, and where the side is odd one before the first too.
        let before = Margin::BySide.before(3, size) * usize::from(self.config.any_size);
        let padded = pixel_values.pad_with_zeros(2, before, 1)?.pad_with_zeros(3, before, 1)?;
        let (pixels, maps) = Maps::from_pixels(&padded)?;
        let (x, mut maps) = self.stem.forward(&pixels.into(), maps, None, false)?;
        let mut x = activation.apply(&x)?;
        for block in &self.blocks {
            (x, maps) = block.forward(&x, maps)?;
        }
        let (x, maps) = self.top.forward(&x, maps, None, false)?;
        let x = activation.apply(&x)?;
        Ok((ops::mean_rows(&x, &Segments::even(maps.items, maps.height * maps.width))?, x))
    }
}

fn pointwise(inner: usize, outer: usize) -> ConvConfig {
    ConvConfig { inner, outer, kernel: 1, stride: 1, padding: 0 }
}

/// An inverted bottleneck.
struct MbConv {
    expansion: Option<ConvNorm>,
    depthwise: Value, // (expanded, 1, kernel, kernel)
    depthwise_norm: BatchNorm,
    squeeze: Option<SqueezeExcite>,
    projection: ConvNorm,
    activation: Activation,
    config: MbConvConfig,
}

impl MbConv {
    fn new(b: &Builder, c: &MbConvConfig, tower: &EfficientNetConfig) -> Result<Self> {
        let (expansion, projection) = (b.enter("expansion"), b.enter("projection"));
        let d = b.enter("depthwise_conv");
        let norm = |b: &Builder, name: &str, channels: usize| BatchNorm::new(b, name, channels, tower.batch_norm_eps);
        let expand = || {
            let norm = norm(&expansion, "expand_bn", c.expanded)?;
            ConvNorm::new(&expansion, "expand_conv", norm, pointwise(c.inner, c.expanded))
        };
        let kernel = (c.expanded, 1, c.kernel, c.kernel);
        let std = (2.0 / (c.kernel * c.kernel) as f64).sqrt();
        let project_norm = norm(&projection, "project_bn", c.outer)?;
        let squeeze = |squeezed| SqueezeExcite::new(&b.enter("squeeze_excite"), c.expanded, squeezed, tower.activation);
        Ok(Self {
            expansion: (c.expanded != c.inner).then(expand).transpose()?,
            depthwise: d.matrix("depthwise_conv.weight", kernel, Init::Normal(std))?,
            depthwise_norm: norm(&d, "depthwise_norm", c.expanded)?,
            squeeze: c.squeezed.map(squeeze).transpose()?,
            projection: ConvNorm::new(&projection, "project_conv", project_norm, pointwise(c.expanded, c.outer))?,
            activation: tower.activation,
            config: c.clone(),
        })
    }

    fn forward(&self, x: &Value, maps: Maps) -> Result<(Value, Maps)> {
        let mut y = x.clone();
        if let Some(expansion) = &self.expansion {
            y = self.activation.apply(&expansion.forward(x, maps, None, false)?.0)?;
        }
        let (weight, bias) = self.depthwise_norm.taken_into(&self.depthwise)?;
        y = ops::depthwise_conv(&y, maps, &weight, &bias)?;
        let mut to = maps;
        if self.config.stride == 2 {
            (y, to) = self.every_other(&y, maps)?;
        }
        y = self.activation.apply(&y)?;
        if let Some(squeeze) = &self.squeeze {
            y = squeeze.forward(&y, to)?;
        }
        self.projection.forward(&y, to, self.config.residual.then_some(x), false)
    }

    /// What a stride of 2 leaves: a kernel that begins `before` pixels before the first stands over pixel `half −
    /// before` first, and over every other one from there.
    fn every_other(&self, y: &Value, maps: Maps) -> Result<(Value, Maps)> {
        let MbConvConfig { kernel, margin, .. } = self.config;
        let first = |side: usize| kernel / 2 - margin.before(kernel, side);
        let (top, left) = (first(maps.height), first(maps.width));
        let left_over = |side: usize, first: usize| (side - first).div_ceil(2);
        let to = Maps { items: maps.items, height: left_over(maps.height, top), width: left_over(maps.width, left) };
        let row = |i: usize| {
            let (item, y, x) = (i / (to.height * to.width), i / to.width % to.height, i % to.width);
            ((item * maps.height + top + 2 * y) * maps.width + left + 2 * x) as u32
        };
        Ok((ops::select_rows(y, &(0..to.rows()).map(row).collect::<Vec<_>>())?, to))
    }
}

/// Each channel is multiplied by a number between 0 and 1 that the means of all channels give (arXiv 1709.01507).
struct SqueezeExcite {
    reduce: (Value, Value), // (squeezed, channels, 1, 1), (squeezed)
    expand: (Value, Value), // (channels, squeezed, 1, 1), (channels)
    activation: Activation,
}

impl SqueezeExcite {
    fn new(b: &Builder, channels: usize, squeezed: usize, activation: Activation) -> Result<Self> {
        let layer = |name: &str, inner: usize, outer: usize| -> Result<(Value, Value)> {
            let (b, std) = (b.enter(name), (inner as f64).powf(-0.5));
            let weight = b.matrix("weight", (outer, inner, 1, 1), Init::Normal(std))?;
            Ok((weight, b.vector("bias", outer, Init::Const(0.0))?))
        };
        Ok(Self {
            reduce: layer("reduce", channels, squeezed)?,
            expand: layer("expand", squeezed, channels)?,
            activation,
        })
    }

    fn forward(&self, x: &Value, maps: Maps) -> Result<Value> {
        let each = maps.height * maps.width;
        let linear = |x: &Value, (weight, bias): &(Value, Value)| {
            let (outer, inner, ..) = weight.tensor().dims4()?;
            ops::linear(x, &weight.reshape((outer, inner))?, bias)
        };
        let means = ops::mean_rows(x, &Segments::even(maps.items, each))?;
        let gate = linear(&self.activation.apply(&linear(&means, &self.reduce)?)?, &self.expand)?;
        let items: Vec<u32> = (0..maps.rows()).map(|row| (row / each) as u32).collect();
        ops::multiply(x, &ops::select_rows(&Activation::Sigmoid.apply(&gate)?, &items)?)
    }
}
