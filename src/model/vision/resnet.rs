//! ResNets: the classic one, and CLIP's with its three-layer stem, averaging in place of strides, and attention pooling.
//!
//! Batch normalisation keeps the statistics that the weights came with, in training too: a contrastive batch is small, and
//! what one image becomes must not depend on the others beside it, or chunks of a step would not add up to the step. Scale
//! and shift are trained. So each norm is taken into the convolution before it and costs no pass of its own.

use anyhow::ensure;
use candle_core::{Result, Tensor, bail};

use crate::model::block::Linear;
use crate::model::params::{Builder, Depth, Init};
use crate::ops::{self, Attention, Conv2d, Maps, Segments, Value};

/// What stands for the whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetPool {
    /// The mean over the last map.
    Mean,
    /// The mean asks, the last map's pixels and the mean answer: CLIP's, whose output layer is the projection.
    Attention {
        /// Attention heads.
        heads: usize,
    },
}

/// The shape of a ResNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Width after the stem.
    pub embedding: usize,
    /// Width after each stage.
    pub hidden: Vec<usize>,
    /// Layers of each stage.
    pub depths: Vec<usize>,
    /// Layers of 1×1, 3×3 and 1×1 convolutions rather than two of 3×3.
    pub bottleneck: bool,
    /// Whether the first stage halves the map too.
    pub downsample_in_first_stage: bool,
    /// Whether the first convolution of a bottleneck takes the stride rather than the second.
    pub downsample_in_bottleneck: bool,
    /// CLIP's form.
    pub clip: bool,
    /// Pixels a side.
    pub image_size: usize,
    /// Pooling.
    pub pool: ResNetPool,
}

impl ResNetConfig {
    /// ResNet-50.
    pub fn resnet_50(image_size: usize) -> Self {
        Self {
            embedding: 64,
            hidden: vec![256, 512, 1024, 2048],
            depths: vec![3, 4, 6, 3],
            bottleneck: true,
            downsample_in_first_stage: false,
            downsample_in_bottleneck: false,
            clip: false,
            image_size,
            pool: ResNetPool::Mean,
        }
    }

    /// Width of an image's state.
    pub fn width(&self) -> usize {
        self.hidden.last().copied().unwrap_or(self.embedding)
    }

    /// Pixels a side of the last map of CLIP's form, which has one learnt position each.
    pub fn grid(&self) -> usize {
        self.image_size / 32
    }

    /// Width inside a layer.
    fn inner(&self, width: usize) -> usize {
        if self.bottleneck { width / 4 } else { width }
    }

    pub(in crate::model) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.hidden.is_empty() && self.hidden.len() == self.depths.len(),
            "hidden_sizes {:?} and depths {:?} do not belong together",
            self.hidden,
            self.depths
        );
        ensure!(
            !self.bottleneck || self.hidden.iter().all(|w| w % 4 == 0),
            "hidden_sizes {:?} are not all multiples of 4",
            self.hidden
        );
        if let ResNetPool::Attention { heads } = self.pool {
            ensure!(
                heads > 0 && self.width().is_multiple_of(heads),
                "{heads} heads do not divide a width of {}",
                self.width()
            );
            ensure!(
                self.image_size >= 32 && self.image_size.is_multiple_of(32),
                "image_size is {}; this ResNet takes multiples of 32",
                self.image_size
            );
        }
        Ok(())
    }

    /// Numbers kept for the backward pass of one image, about: each convolution's output.
    pub(in crate::model) fn activations(&self) -> usize {
        let mut side = self.image_size / 4;
        let stem = self.image_size * self.image_size / 4 * self.embedding;
        let stages = self.hidden.iter().zip(&self.depths).enumerate().map(|(i, (width, depth))| {
            side = if i > 0 { side.div_ceil(2) } else { side };
            side * side * depth * (width + 2 * self.inner(*width))
        });
        stem + stages.sum::<usize>()
    }
}

pub(in crate::model) struct ResNet {
    stem: Vec<ConvNorm>,
    layers: Vec<Layer>,
    pool: Option<AttentionPool>,
    config: ResNetConfig,
}

impl ResNet {
    pub fn new(b: &Builder, c: &ResNetConfig) -> Result<Self> {
        let e = b.enter("embedder").depth(Depth::Embeddings);
        let stem = if c.clip {
            let half = c.embedding / 2;
            let shape = [(3, half, 2), (half, half, 1), (half, c.embedding, 1)];
            let conv = |(i, (inner, outer, stride)): (usize, &(usize, usize, usize))| {
                ConvNorm::new(&e.enter(&i.to_string()), (*inner, *outer), 3, *stride)
            };
            shape.iter().enumerate().map(conv).collect::<Result<_>>()?
        } else {
            vec![ConvNorm::new(&e.enter("embedder"), (3, c.embedding), 7, 2)?]
        };
        let (mut layers, mut inner) = (Vec::new(), c.embedding);
        for (s, (&outer, &depth)) in c.hidden.iter().zip(&c.depths).enumerate() {
            for l in 0..depth {
                let name = format!("encoder.stages.{s}.layers.{l}");
                let stride = if l == 0 && (s > 0 || c.downsample_in_first_stage) { 2 } else { 1 };
                let b = b.enter(&name).depth(Depth::Block(layers.len()));
                layers.push(Layer::new(&b, c, (inner, outer), stride)?);
                inner = outer;
            }
        }
        let pool = match c.pool {
            ResNetPool::Mean => None,
            ResNetPool::Attention { heads } => {
                Some(AttentionPool::new(&b.enter("attention_pool").depth(Depth::Final), c, heads)?)
            }
        };
        Ok(Self { stem, layers, pool, config: c.clone() })
    }

    /// pixel_values: (batch, 3, image_size, image_size) → (batch, width).
    pub fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        let (pixels, mut maps) = Maps::from_pixels(pixel_values)?;
        if (maps.height, maps.width) != (self.config.image_size, self.config.image_size) {
            bail!("pixel_values are {}×{}, the model takes {2}×{2}", maps.height, maps.width, self.config.image_size);
        }
        let mut x: Value = pixels.into();
        for conv in &self.stem {
            (x, maps) = conv.forward(&x, maps, None, true)?;
        }
        (x, maps) = if self.config.clip { ops::avg_pool(&x, maps, 2)? } else { ops::max_pool(&x, maps, 3, 2, 1)? };
        for layer in &self.layers {
            (x, maps) = layer.forward(&x, maps)?;
        }
        let segments = Segments::even(maps.items, maps.height * maps.width);
        match &self.pool {
            Some(pool) => pool.forward(&x, &segments),
            None => ops::mean_rows(&x, &segments),
        }
    }
}

/// A convolution and the norm behind it.
struct ConvNorm {
    weight: Value,   // (out, in, kernel, kernel)
    scale: Value,    // (out)
    shift: Value,    // (out)
    mean: Value,     // (out)
    variance: Value, // (out)
    kernel: usize,
    stride: usize,
}

/// PyTorch's default, which all published ResNets have.
const BATCH_NORM_EPS: f64 = 1e-5;

impl ConvNorm {
    fn new(b: &Builder, (inner, outer): (usize, usize), kernel: usize, stride: usize) -> Result<Self> {
        let std = (2.0 / (outer * kernel * kernel) as f64).sqrt();
        let norm = b.enter("normalization");
        Ok(Self {
            weight: b.matrix("convolution.weight", (outer, inner, kernel, kernel), Init::Normal(std))?,
            scale: norm.vector("weight", outer, Init::Const(1.0))?,
            shift: norm.vector("bias", outer, Init::Const(0.0))?,
            mean: norm.buffer("running_mean", outer, Init::Const(0.0))?,
            variance: norm.buffer("running_var", outer, Init::Const(1.0))?,
            kernel,
            stride,
        })
    }

    /// `(conv(x) − mean) / √(variance + ε) · scale + shift`, plus `residual`.
    fn forward(&self, x: &Value, maps: Maps, residual: Option<&Value>, relu: bool) -> Result<(Value, Maps)> {
        let rstd = (self.variance.tensor() + BATCH_NORM_EPS)?.sqrt()?.recip()?;
        let scale = ops::multiply(&self.scale, &rstd.into())?;
        let shift = ops::add(&self.shift, &ops::multiply(&scale, &self.mean.tensor().neg()?.into())?)?;
        let conv = Conv2d {
            weight: &ops::scale_rows(&self.weight, &scale)?,
            bias: Some(&shift),
            residual,
            stride: self.stride,
            padding: self.kernel / 2,
            relu,
        };
        conv.apply(x, maps)
    }
}

struct Layer {
    convs: Vec<ConvNorm>,
    shortcut: Option<ConvNorm>,
    /// CLIP's form averages over this many pixels before the last convolution, and before the shortcut.
    average: usize,
}

impl Layer {
    fn new(b: &Builder, c: &ResNetConfig, (inner, outer): (usize, usize), stride: usize) -> Result<Self> {
        let (middle, average) = (c.inner(outer), if c.clip { stride } else { 1 });
        let stride = if c.clip { 1 } else { stride };
        let shape = match (c.bottleneck, c.downsample_in_bottleneck) {
            (true, true) => vec![(inner, middle, 1, stride), (middle, middle, 3, 1), (middle, outer, 1, 1)],
            (true, false) => vec![(inner, middle, 1, 1), (middle, middle, 3, stride), (middle, outer, 1, 1)],
            (false, _) => vec![(inner, outer, 3, stride), (outer, outer, 3, 1)],
        };
        let conv = |(i, (inner, outer, kernel, stride)): (usize, &(usize, usize, usize, usize))| {
            ConvNorm::new(&b.enter(&format!("layer.{i}")), (*inner, *outer), *kernel, *stride)
        };
        let shorter = inner != outer || stride > 1 || average > 1;
        Ok(Self {
            convs: shape.iter().enumerate().map(conv).collect::<Result<_>>()?,
            shortcut: shorter.then(|| ConvNorm::new(&b.enter("shortcut"), (inner, outer), 1, stride)).transpose()?,
            average,
        })
    }

    fn forward(&self, x: &Value, maps: Maps) -> Result<(Value, Maps)> {
        let smaller = |x: &Value, maps: Maps| match self.average {
            1 => Ok((x.clone(), maps)),
            n => ops::avg_pool(x, maps, n),
        };
        let residual = match &self.shortcut {
            Some(conv) => {
                let (x, maps) = smaller(x, maps)?;
                conv.forward(&x, maps, None, false)?.0
            }
            None => x.clone(),
        };
        let Some((last, earlier)) = self.convs.split_last() else { bail!("a layer without convolutions") };
        let (mut x, mut maps) = (x.clone(), maps);
        for conv in earlier {
            (x, maps) = conv.forward(&x, maps, None, true)?;
        }
        (x, maps) = smaller(&x, maps)?;
        last.forward(&x, maps, Some(&residual), true)
    }
}

struct AttentionPool {
    position_embedding: Value, // (1 + grid², width)
    q: Linear,
    k: Linear,
    v: Linear,
    heads: usize,
}

impl AttentionPool {
    fn new(b: &Builder, c: &ResNetConfig, heads: usize) -> Result<Self> {
        let (width, positions) = (c.width(), 1 + c.grid() * c.grid());
        let std = (width as f64).powf(-0.5);
        let square = |name: &str| Linear::new(b, name, width, width, std);
        Ok(Self {
            position_embedding: b.vector("position_embedding.weight", (positions, width), Init::Normal(std))?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            heads,
        })
    }

    fn forward(&self, x: &Value, segments: &Segments) -> Result<Value> {
        let (items, pixels) = (segments.items(), segments.rows() / segments.items().max(1));
        let positions = |from: u32, to: u32| -> Vec<u32> { (0..items).flat_map(|_| from..to).collect() };
        let mean = ops::add_embedding(&ops::mean_rows(x, segments)?, &self.position_embedding, &positions(0, 1))?;
        let x = ops::add_embedding(x, &self.position_embedding, &positions(1, 1 + pixels as u32))?;
        // Keys and values: each item's mean before its pixels.
        let rows = interleaved(items, pixels);
        let keys = |layer: &Linear| {
            let (first, rest) = (layer.forward(&mean)?, layer.forward(&x)?);
            ops::select_rows(&ops::concat_rows(&first, &rest)?, &rows)
        };
        let attention = Attention {
            heads: self.heads,
            queries: Segments::even(items, 1),
            keys: Segments::even(items, 1 + pixels),
            causal: false,
        };
        attention.apply(&self.q.forward(&mean)?, &keys(&self.k)?, &keys(&self.v)?)
    }
}

/// Row numbers that put row i of the first `items` before the `each` rows of item i that follow them.
fn interleaved(items: usize, each: usize) -> Vec<u32> {
    let of_item = |i: usize| std::iter::once(i).chain(items + i * each..items + (i + 1) * each);
    (0..items).flat_map(of_item).map(|row| row as u32).collect()
}
