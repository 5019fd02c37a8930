//! The numbers of a vision transformer.

use anyhow::{Result, ensure};

use crate::model::layers::transformer::check_transformer;
use crate::ops::Activation;

/// What stands for the whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VitPool {
    /// The class token, through the final norm.
    Cls,
    /// That through a dense layer and tanh.
    Dense,
    /// The mean of the patches, through the final norm first.
    Mean,
    /// The mean of the patches, through a norm of its own.
    MeanThenNorm,
    /// What a learnt query gathers from the patches (SigLIP's head).
    Attention,
}

/// Rows before the patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Prefix {
    pub class_token: bool,
    pub distillation_token: bool,
    pub registers: usize,
}

impl Prefix {
    /// A CLIP's: one class token.
    pub const CLASS_TOKEN: Self = Self { class_token: true, distillation_token: false, registers: 0 };
}

/// The shape of a vision transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Width of a token's state.
    pub width: usize,
    /// Width inside the feed-forward layer.
    pub intermediate: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Pixels a side.
    pub image_size: usize,
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
    /// Rows before the patches.
    pub prefix: Prefix,
    /// Whether positions are learnt, one a row (registers have none).
    pub positions: bool,
    /// Whether the class and distillation token have a position too.
    pub prefix_positions: bool,
    /// Whether patches have a bias.
    pub patch_bias: bool,
    /// A norm before the blocks.
    pub pre_norm: bool,
    /// A norm after the blocks.
    pub final_norm: bool,
    /// Layer scale.
    pub layer_scale: bool,
    /// Whether keys have a bias.
    pub key_bias: bool,
    /// Learnt scores by relative position.
    pub relative_positions: bool,
    /// Pooling.
    pub pool: VitPool,
}

impl VitConfig {
    /// CLIP's, with heads of 64 and a feed-forward layer of four times the width.
    pub fn clip(width: usize, layers: usize, image_size: usize, patch_size: usize) -> Self {
        Self {
            width,
            intermediate: 4 * width,
            layers,
            heads: width / 64,
            image_size,
            patch_size,
            activation: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            prefix: Prefix::CLASS_TOKEN,
            positions: true,
            prefix_positions: true,
            patch_bias: false,
            pre_norm: true,
            final_norm: true,
            layer_scale: false,
            key_bias: true,
            relative_positions: false,
            pool: VitPool::Cls,
        }
    }

    /// Patches a side; pixels past the last whole patch are not seen.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Rows before the patches that positions count.
    pub fn leading(&self) -> usize {
        usize::from(self.prefix.class_token) + usize::from(self.prefix.distillation_token)
    }

    /// Rows before the patches.
    pub fn prefix_rows(&self) -> usize {
        self.leading() + self.prefix.registers
    }

    /// Rows of the position table before those of the patches.
    pub fn position_rows_before_patches(&self) -> usize {
        if self.prefix_positions { self.leading() } else { 0 }
    }

    /// Rows an image.
    pub fn tokens(&self) -> usize {
        self.prefix_rows() + self.grid() * self.grid()
    }

    pub fn check(&self) -> Result<()> {
        check_transformer("vision_config", self.width, self.heads, self.layers, self.layer_norm_eps)?;
        ensure!(
            self.patch_size <= self.image_size,
            "vision_config: patch_size {} is larger than image_size {}",
            self.patch_size,
            self.image_size
        );
        let needs_class = matches!(self.pool, VitPool::Cls | VitPool::Dense);
        ensure!(!needs_class || self.prefix.class_token, "image pooling {:?} needs a class token", self.pool);
        Ok(())
    }
}
