//! ConvNeXt (arXiv 2201.03545) and ConvNeXt V2 (arXiv 2301.00808).

use candle_core::{Result, Tensor, bail};

use super::config::ConvNextConfig;
use crate::model::layers::linear::Linear;
use crate::model::layers::norm::LayerNorm;
use crate::model::params::{Builder, Depth, Init};
use crate::model::vision::tower::VisionTower;
use crate::ops::{self, Activation, Conv2d, Maps, Segments, Value};

pub struct ConvNext {
    patches: Downsampling,
    norm: LayerNorm,
    stages: Vec<Stage>,
    pooler_norm: Option<LayerNorm>,
    config: ConvNextConfig,
}

struct Stage {
    /// The norm before, and a convolution whose stride is its kernel.
    downsampling: Option<(LayerNorm, Downsampling)>,
    blocks: Vec<ConvNextBlock>,
}

pub(super) const EPS: f64 = 1e-6;

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
                    Some((norm, Downsampling::new(&b, "downsampling_layer.1", inner, width, 2)?))
                }
            };
            let mut blocks = Vec::new();
            for l in 0..depth {
                blocks.push(ConvNextBlock::new(&b.enter(&format!("layers.{l}")).depth(Depth::Block(block)), c, width)?);
                block += 1;
            }
            stages.push(Stage { downsampling, blocks });
            inner = width;
        }
        let last = b.depth(Depth::Final);
        Ok(Self {
            patches: Downsampling::new(&e, "patch_embeddings", 3, c.hidden[0], c.patch_size)?,
            norm: LayerNorm::new(&e, "layernorm", c.hidden[0], EPS)?,
            stages,
            pooler_norm: c
                .pooler_norm
                .then(|| LayerNorm::new(&last, "layernorm", c.width(), c.layer_norm_eps))
                .transpose()?,
            config: c.clone(),
        })
    }
}

impl ConvNext {
    /// → a row for each place of the last map.
    fn places(&self, pixel_values: &Tensor) -> Result<(Value, Segments)> {
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
        Ok((x, Segments::even(maps.items, maps.height * maps.width)))
    }

    fn normed(&self, x: &Value) -> Result<Value> {
        self.pooler_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(x))
    }
}

impl VisionTower for ConvNext {
    fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        let (x, segments) = self.places(pixel_values)?;
        self.normed(&ops::mean_rows(&x, &segments)?)
    }

    /// Places are normed as their mean is.
    fn with_patches(&self, pixel_values: &Tensor) -> Result<(Value, Value)> {
        let (x, segments) = self.places(pixel_values)?;
        Ok((self.normed(&ops::mean_rows(&x, &segments)?)?, self.normed(&x)?))
    }
}

/// A convolution whose stride is its kernel.
struct Downsampling {
    weight: Value, // (out, in, kernel, kernel)
    bias: Value,   // (out)
    kernel: usize,
}

impl Downsampling {
    fn new(b: &Builder, name: &str, inner: usize, outer: usize, kernel: usize) -> Result<Self> {
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

struct ConvNextBlock {
    depthwise: (Value, Value), // (width, 1, 7, 7), (width)
    norm: LayerNorm,
    first: Linear,
    response_norm: Option<(Value, Value)>, // (4 · width) each
    second: Linear,
    layer_scale: Option<Value>, // (width)
    activation: Activation,
}

impl ConvNextBlock {
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
        let normed = self.norm.operand(&y)?;
        let second = self.second.branch_end(self.layer_scale.as_ref())?;
        match &self.response_norm {
            Some((weight, bias)) => {
                let active = self.activation.apply(&self.first.forward(&normed)?)?;
                second.onto(x, &ops::response_norm(&active, maps, weight, bias)?)
            }
            None => second.feed_forward(x, &normed, &self.first, self.activation),
        }
    }
}
