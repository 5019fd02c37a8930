//! Swin transformers (arXiv 2103.14030): attention within windows that shift from block to block, over maps that halve
//! from stage to stage.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::config::SwinConfig;
use crate::model::layers::linear::Linear;
use crate::model::layers::norm::LayerNorm;
use crate::model::params::{Builder, Depth, Init};
use crate::model::vision::tower::VisionTower;
use crate::ops::{self, Activation, Attention, Conv2d, Maps, PositionBias, Segments, Value};

pub struct Swin {
    patches: (Value, Value), // (embed_dim, 3, patch, patch), (embed_dim)
    norm: LayerNorm,
    stages: Vec<Stage>,
    final_norm: LayerNorm,
    config: SwinConfig,
}

struct Stage {
    blocks: Vec<SwinBlock>,
    /// Four neighbours become one place of twice the width; not after the last stage.
    merging: Option<(LayerNorm, Linear)>,
}

impl Swin {
    pub fn new(b: &Builder, c: &SwinConfig) -> Result<Self> {
        let e = b.enter("embeddings").depth(Depth::Embeddings);
        let patch = (c.embed_dim, 3, c.patch_size, c.patch_size);
        let (mut stages, mut number) = (Vec::new(), 0);
        for (s, &depth) in c.depths.iter().enumerate() {
            let b = b.enter(&format!("encoder.stages.{s}"));
            let mut blocks = Vec::new();
            for l in 0..depth {
                let b = b.enter(&format!("layers.{l}")).depth(Depth::Block(number));
                blocks.push(SwinBlock::new(&b, c, s, l % 2 == 1)?);
                number += 1;
            }
            let b = b.enter("downsample").depth(Depth::Block(number - 1));
            let merging = || -> Result<_> {
                let width = c.embed_dim << s;
                let reduction = Linear::without_bias(&b, "reduction", 4 * width, 2 * width, 0.02)?;
                Ok((LayerNorm::new(&b, "norm", 4 * width, c.layer_norm_eps)?, reduction))
            };
            stages.push(Stage { blocks, merging: (s + 1 < c.depths.len()).then(merging).transpose()? });
        }
        Ok(Self {
            patches: (
                e.matrix("patch_embedding.weight", patch, Init::Normal(0.02))?,
                e.vector("patch_embedding.bias", c.embed_dim, Init::Const(0.0))?,
            ),
            norm: LayerNorm::new(&e, "norm", c.embed_dim, c.layer_norm_eps)?,
            stages,
            final_norm: LayerNorm::new(&b.depth(Depth::Final), "layernorm", c.width(), c.layer_norm_eps)?,
            config: c.clone(),
        })
    }
}

impl Swin {
    /// → a row for each place of the last map.
    fn places(&self, pixel_values: &Tensor) -> Result<(Value, Segments)> {
        let (pixels, maps) = Maps::from_pixels(pixel_values)?;
        if (maps.height, maps.width) != (self.config.image_size, self.config.image_size) {
            bail!("pixel_values are {}×{}, the model takes {2}×{2}", maps.height, maps.width, self.config.image_size);
        }
        let (weight, bias) = (&self.patches.0, Some(&self.patches.1));
        let patches = Conv2d { weight, bias, residual: None, stride: self.config.patch_size, padding: 0, relu: false };
        let (x, mut maps) = patches.apply(&pixels.into(), maps)?;
        let mut x = self.norm.forward(&x)?;
        for stage in &self.stages {
            for block in &stage.blocks {
                x = block.forward(&x, maps)?;
            }
            if let Some((norm, reduction)) = &stage.merging {
                let to = Maps { height: maps.height / 2, width: maps.width / 2, ..maps };
                let width = x.tensor().dim(1)?;
                let together = ops::select_rows(&x, &quarters(maps, to))?.reshape((to.rows(), 4 * width))?;
                (x, maps) = (reduction.forward(&norm.operand(&together)?)?, to);
            }
        }
        Ok((self.final_norm.forward(&x)?, Segments::even(maps.items, maps.height * maps.width)))
    }
}

impl VisionTower for Swin {
    fn forward(&self, pixel_values: &Tensor) -> Result<Value> {
        Ok(self.with_patches(pixel_values)?.0)
    }

    fn with_patches(&self, pixel_values: &Tensor) -> Result<(Value, Value)> {
        let (x, segments) = self.places(pixel_values)?;
        Ok((ops::mean_rows(&x, &segments)?, x))
    }
}

/// The four neighbours that each place of `to` is made of: top left, bottom left, top right, bottom right.
pub(super) fn quarters(maps: Maps, to: Maps) -> Vec<u32> {
    let of_place = |row: usize| {
        let (item, y, x) = (row / (to.height * to.width), row / to.width % to.height, row % to.width);
        let at = move |dy: usize, dx: usize| (item * maps.height + 2 * y + dy) * maps.width + 2 * x + dx;
        [at(0, 0), at(1, 0), at(0, 1), at(1, 1)]
    };
    (0..to.rows()).flat_map(of_place).map(|row| row as u32).collect()
}

struct SwinBlock {
    layer_norm1: LayerNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    layer_norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    table: Value, // ((2 · window − 1)², heads)
    heads: usize,
    windows: Windows,
    /// Entry of the table for each pair of places in a window.
    index: Arc<[u32]>,
    activation: Activation,
}

impl SwinBlock {
    fn new(b: &Builder, c: &SwinConfig, stage: usize, shifted: bool) -> Result<Self> {
        let (width, heads) = (c.embed_dim << stage, c.heads[stage]);
        let (attention, mlp) = (b.enter("self_attn"), b.enter("mlp"));
        let inner = (width as f64 * c.mlp_ratio) as usize;
        let square = |name: &str| Linear::new(&attention, name, width, width, 0.02);
        let table = ((2 * c.window - 1).pow(2), heads);
        Ok(Self {
            layer_norm1: LayerNorm::new(b, "layer_norm1", width, c.layer_norm_eps)?,
            q: square("q_proj")?,
            k: square("k_proj")?,
            v: square("v_proj")?,
            out: square("out_proj")?,
            layer_norm2: LayerNorm::new(b, "layer_norm2", width, c.layer_norm_eps)?,
            fc1: Linear::new(&mlp, "fc1", width, inner, 0.02)?,
            fc2: Linear::new(&mlp, "fc2", inner, width, 0.02)?,
            table: attention.vector("relative_position_bias.table", table, Init::Normal(0.02))?,
            heads,
            windows: Windows::of(c, stage, shifted),
            index: offsets(c.window),
            activation: c.activation,
        })
    }

    fn forward(&self, x: &Value, maps: Maps) -> Result<Value> {
        let (rows, back) = self.windows.rows(maps);
        let normed = ops::select_rows(&self.layer_norm1.operand(x)?, &rows)?.used_often();
        let places = self.windows.window * self.windows.window;
        let attention = Attention::within(&Segments::even(rows.len() / places, places), self.heads, false);
        let bias = PositionBias {
            table: self.table.clone(),
            index: Arc::clone(&self.index),
            mask: (self.windows.shift > 0).then(|| self.windows.mask(maps, &rows)),
        };
        let (q, k, v) = (self.q.operand(&normed)?, self.k.operand(&normed)?, self.v.operand(&normed)?);
        let attended = ops::select_rows(&attention.apply_biased(&q, &k, &v, Some(&bias))?, &back)?;
        let x = self.out.branch_end(None)?.onto(x, &attended)?;
        let normed = self.layer_norm2.operand(&x)?;
        self.fc2.branch_end(None)?.feed_forward(&x, &normed, &self.fc1, self.activation)
    }
}

/// How a block's map falls into windows.
pub(super) struct Windows {
    /// Places a side.
    window: usize,
    /// By how many places they are shifted.
    pub shift: usize,
}

impl Windows {
    pub fn of(c: &SwinConfig, stage: usize, shifted: bool) -> Self {
        // A map of one window has nothing to shift.
        let shift = if shifted && c.grid(stage) > c.window { c.window / 2 } else { 0 };
        Self { window: c.window, shift }
    }

    /// The map's rows window by window, and the way back.
    pub fn rows(&self, maps: Maps) -> (Vec<u32>, Vec<u32>) {
        let (w, down, across) = (self.window, maps.height / self.window, maps.width / self.window);
        let row = |i: usize| {
            let (place, window) = (i % (w * w), i / (w * w));
            let (item, wy, wx) = (window / (down * across), window / across % down, window % across);
            let y = (wy * w + place / w + self.shift) % maps.height;
            let x = (wx * w + place % w + self.shift) % maps.width;
            ((item * maps.height + y) * maps.width + x) as u32
        };
        let rows: Vec<u32> = (0..maps.rows()).map(row).collect();
        let mut back = vec![0; rows.len()];
        rows.iter().enumerate().for_each(|(i, &row)| back[row as usize] = i as u32);
        (rows, back)
    }

    /// −100 between places of one item's windows that only the shift has brought together, as the reference has it.
    pub fn mask(&self, maps: Maps, rows: &[u32]) -> Arc<[f32]> {
        let (per_item, places) = (maps.height * maps.width, self.window * self.window);
        // Whether a place came round from the other edge.
        let wrapped = |i: usize| {
            let row = rows[i] as usize;
            (row / maps.width % maps.height < self.shift, row % maps.width < self.shift)
        };
        let score = |i: usize| {
            let (window, pair) = (i / (places * places), i % (places * places));
            let (q, k) = (window * places + pair / places, window * places + pair % places);
            if wrapped(q) == wrapped(k) { 0.0 } else { -100.0 }
        };
        (0..per_item * places).map(score).collect()
    }
}

/// Entry of the table for each query and key of a window.
pub(super) fn offsets(window: usize) -> Arc<[u32]> {
    let places = window * window;
    let entry = |i: usize| {
        let (q, k) = (i / places, i % places);
        let (down, across) = (q / window + window - 1 - k / window, q % window + window - 1 - k % window);
        (down * (2 * window - 1) + across) as u32
    };
    (0..places * places).map(entry).collect()
}
