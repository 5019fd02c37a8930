//! ResNets: the classic one, and CLIP's with its three-layer stem, averaging in place of strides, and attention
//! pooling.

use candle_core::{Result, Tensor, bail};

use super::config::{ResNetConfig, ResNetPool};
use crate::model::layers::conv_norm::{BatchNorm, ConvConfig, ConvNorm};
use crate::model::layers::linear::Linear;
use crate::model::params::{Builder, Depth, Init};
use crate::model::vision::tower::VisionTower;
use crate::ops::{self, Attention, Maps, Segments, Value};

pub struct ResNet {
    stem: Vec<ConvNorm>,
    blocks: Vec<ResNetBlock>,
    pool: Option<AttentionPool>,
    config: ResNetConfig,
}

impl ResNet {
    /// b: at the tower.
    pub fn new(b: &Builder, c: &ResNetConfig) -> Result<Self> {
        let e = b.enter("embedder").depth(Depth::Embeddings);
        let conv = |name: &str, inner: usize, outer: usize, kernel: usize, stride: usize| {
            conv_norm(&e.enter(name), ConvConfig { inner, outer, kernel, stride, padding: kernel / 2 })
        };
        let stem = if c.clip {
            let half = c.embedding / 2;
            vec![conv("0", 3, half, 3, 2)?, conv("1", half, half, 3, 1)?, conv("2", half, c.embedding, 3, 1)?]
        } else {
            vec![conv("embedder", 3, c.embedding, 7, 2)?]
        };
        let block = |(i, (name, shape)): (usize, (String, BlockShape))| {
            ResNetBlock::new(&b.enter(&name).depth(Depth::Block(i)), &shape)
        };
        let blocks = BlockShape::all(c).into_iter().enumerate().map(block).collect::<Result<_>>()?;
        let pool = match c.pool {
            ResNetPool::Mean => None,
            ResNetPool::Attention { heads } => {
                Some(AttentionPool::new(&b.enter("attention_pool").depth(Depth::Final), c, heads)?)
            }
        };
        Ok(Self { stem, blocks, pool, config: c.clone() })
    }
}

impl ResNet {
    /// → a row for each place of the last map.
    fn places(&self, pixel_values: &Tensor) -> Result<(Value, Segments)> {
        let (pixels, mut maps) = Maps::from_pixels(pixel_values)?;
        if (maps.height, maps.width) != (self.config.image_size, self.config.image_size) {
            bail!("pixel_values are {}×{}, the model takes {2}×{2}", maps.height, maps.width, self.config.image_size);
        }
        let mut x: Value = pixels.into();
        for conv in &self.stem {
            (x, maps) = conv.forward(&x, maps, None, true)?;
        }
        (x, maps) = if self.config.clip { ops::avg_pool(&x, maps, 2)? } else { ops::max_pool(&x, maps, 3, 2, 1)? };
        for block in &self.blocks {
            (x, maps) = block.forward(&x, maps)?;
        }
        Ok((x, Segments::even(maps.items, maps.height * maps.width)))
    }

    fn pooled(&self, x: &Value, segments: &Segments) -> Result<Value> {
        match &self.pool {
            Some(pool) => pool.forward(x, segments),
            None => ops::mean_rows(x, segments),
        }
    }
}

impl VisionTower for ResNet {
    fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        let (x, segments) = self.places(pixel_values)?;
        self.pooled(&x, &segments)
    }

    /// Of attention pooling, its values: what it adds up (MaskCLIP, arXiv 2112.01071).
    fn with_patches(&self, pixel_values: &Tensor) -> Result<(Value, Value)> {
        let (x, segments) = self.places(pixel_values)?;
        let pooled = self.pooled(&x, &segments)?;
        Ok((pooled, self.pool.as_ref().map_or(Ok(x.clone()), |pool| pool.values(&x, &segments))?))
    }
}

/// PyTorch's default, which all published ResNets have.
pub(super) const BATCH_NORM_EPS: f64 = 1e-5;

/// `convolution` and `normalization` under `b`.
fn conv_norm(b: &Builder, config: ConvConfig) -> Result<ConvNorm> {
    let norm = BatchNorm::new(b, "normalization", config.outer, BATCH_NORM_EPS)?;
    ConvNorm::new(b, "convolution", norm, config)
}

/// The numbers of one block.
pub(super) struct BlockShape {
    /// Channels in, between the convolutions, and out.
    channels: [usize; 3],
    /// Kernel and stride of each convolution.
    pub convs: Vec<(usize, usize)>,
    /// Stride of the convolution beside them, where there is one.
    pub shortcut: Option<usize>,
    /// CLIP's form averages over this many pixels before the last convolution, and before the shortcut.
    pub average: usize,
}

impl BlockShape {
    /// The blocks of all stages with their names.
    pub fn all(c: &ResNetConfig) -> Vec<(String, Self)> {
        let (mut blocks, mut inner) = (Vec::new(), c.embedding);
        for (s, (&outer, &depth)) in c.hidden.iter().zip(&c.depths).enumerate() {
            for l in 0..depth {
                let stride = if l == 0 && (s > 0 || c.downsample_in_first_stage) { 2 } else { 1 };
                blocks.push((format!("encoder.stages.{s}.layers.{l}"), Self::new(c, inner, outer, stride)));
                inner = outer;
            }
        }
        blocks
    }

    fn new(c: &ResNetConfig, inner: usize, outer: usize, stride: usize) -> Self {
        let (stride, average) = if c.clip { (1, stride) } else { (stride, 1) };
        let convs = match (c.bottleneck, c.downsample_in_bottleneck) {
            (true, true) => vec![(1, stride), (3, 1), (1, 1)],
            (true, false) => vec![(1, 1), (3, stride), (1, 1)],
            (false, _) => vec![(3, stride), (3, 1)],
        };
        let shorter = inner != outer || stride > 1 || average > 1;
        Self { channels: [inner, c.inner(outer), outer], convs, shortcut: shorter.then_some(stride), average }
    }
}

struct ResNetBlock {
    convs: Vec<ConvNorm>,
    shortcut: Option<ConvNorm>,
    average: usize,
}

impl ResNetBlock {
    fn new(b: &Builder, shape: &BlockShape) -> Result<Self> {
        let [inner, middle, outer] = shape.channels;
        let conv = |name: &str, inner: usize, outer: usize, (kernel, stride): (usize, usize)| {
            conv_norm(&b.enter(name), ConvConfig { inner, outer, kernel, stride, padding: kernel / 2 })
        };
        let last = shape.convs.len() - 1;
        let one = |(i, at): (usize, &(usize, usize))| {
            let (from, to) = (if i == 0 { inner } else { middle }, if i == last { outer } else { middle });
            conv(&format!("layer.{i}"), from, to, *at)
        };
        Ok(Self {
            convs: shape.convs.iter().enumerate().map(one).collect::<Result<_>>()?,
            shortcut: shape.shortcut.map(|stride| conv("shortcut", inner, outer, (1, stride))).transpose()?,
            average: shape.average,
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

    /// Of each pixel what the pooling adds up.
    fn values(&self, x: &Value, segments: &Segments) -> Result<Value> {
        self.v.forward(&self.placed(x, segments)?)
    }

    /// Pixels with their positions.
    fn placed(&self, x: &Value, segments: &Segments) -> Result<Value> {
        let pixels = (segments.rows() / segments.items().max(1)) as u32;
        let positions: Vec<u32> = (0..segments.items()).flat_map(|_| 1..1 + pixels).collect();
        ops::add_embedding(x, &self.position_embedding, &positions)
    }

    fn forward(&self, x: &Value, segments: &Segments) -> Result<Value> {
        let (items, pixels) = (segments.items(), segments.rows() / segments.items().max(1));
        let mean = ops::add_embedding(&ops::mean_rows(x, segments)?, &self.position_embedding, &vec![0; items])?;
        let x = self.placed(x, segments)?;
        // Keys and values: each item's mean before its pixels.
        let rows = interleaved(items, pixels);
        let keys = |layer: &Linear| {
            let (first, rest) = (layer.operand(&mean)?, layer.operand(&x)?);
            ops::select_rows(&ops::concat_rows(&first, &rest)?, &rows)
        };
        let attention = Attention {
            heads: self.heads,
            queries: Segments::even(items, 1),
            keys: Segments::even(items, 1 + pixels),
            causal: false,
            window: None,
        };
        attention.apply(&self.q.operand(&mean)?, &keys(&self.k)?, &keys(&self.v)?)?.widened()
    }
}

/// Row numbers that put row i of the first `items` before the `each` rows of item i that follow them.
fn interleaved(items: usize, each: usize) -> Vec<u32> {
    let of_item = |i: usize| std::iter::once(i).chain(items + i * each..items + (i + 1) * each);
    (0..items).flat_map(of_item).map(|row| row as u32).collect()
}
