//! The numbers of a ConvNeXt.

use anyhow::{Result, ensure};

use crate::ops::Activation;

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

    pub fn check(&self) -> Result<()> {
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

    /// Numbers kept for the backward pass of one image, about: of each place and block what goes into the depthwise
    /// convolution, into the norm, out of it, and four widths of hidden numbers; with a response norm these before the
    /// activation, behind it, and behind the norm.
    pub fn activations(&self) -> usize {
        self.kept(if self.response_norm { 15 } else { 7 })
    }

    /// Those of them that only products read: not what a response norm changes, nor what stands before the norm.
    pub fn operands(&self) -> usize {
        self.kept(if self.response_norm { 1 } else { 5 })
    }

    /// So many widths of each place and block.
    fn kept(&self, widths: usize) -> usize {
        let places = |stage: usize| (self.image_size / (self.patch_size << stage)).pow(2);
        let stages = self.hidden.iter().zip(&self.depths).enumerate();
        stages.map(|(stage, (width, depth))| places(stage) * depth * widths * width).sum()
    }
}
