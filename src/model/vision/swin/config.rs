//! The numbers of a Swin transformer.

use anyhow::{Result, ensure};

use crate::ops::Activation;

/// The shape of a Swin transformer.
#[derive(Clone, Debug, PartialEq)]
pub struct SwinConfig {
    /// Width of the first stage; each following one is twice as wide.
    pub embed_dim: usize,
    /// Blocks of each stage.
    pub depths: Vec<usize>,
    /// Attention heads of each stage.
    pub heads: Vec<usize>,
    /// Places a side of a window.
    pub window: usize,
    /// Width inside the feed-forward layer over that of the stage.
    pub mlp_ratio: f64,
    /// Pixels a side.
    pub image_size: usize,
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Activation.
    pub activation: Activation,
    /// Layer norm's epsilon.
    pub layer_norm_eps: f64,
}

impl SwinConfig {
    /// Width of an image's state.
    pub fn width(&self) -> usize {
        self.embed_dim << (self.depths.len().max(1) - 1)
    }

    /// Places a side of a stage's map.
    pub fn grid(&self, stage: usize) -> usize {
        (self.image_size / self.patch_size) >> stage
    }

    pub fn check(&self) -> Result<()> {
        ensure!(
            !self.depths.is_empty() && self.depths.len() == self.heads.len() && self.depths.len() < 16,
            "depths {:?} and num_heads {:?} do not belong together",
            self.depths,
            self.heads
        );
        for (stage, &heads) in self.heads.iter().enumerate() {
            let (width, grid) = (self.embed_dim << stage, self.grid(stage));
            ensure!(heads > 0 && width % heads == 0, "{heads} heads do not divide stage {stage}'s width of {width}");
            let whole = grid > 0 && self.image_size == (grid * self.patch_size) << stage;
            ensure!(
                whole && self.window > 0 && grid.is_multiple_of(self.window),
                "image_size {} gives stage {stage} a map of {grid} places a side; allowed are sizes whose maps are \
                 whole multiples of window_size {}, such as {}",
                self.image_size,
                self.window,
                (self.window * self.patch_size) << (self.depths.len() - 1)
            );
        }
        Ok(())
    }

    /// Numbers kept for the backward pass of one image, about.
    pub fn activations(&self) -> usize {
        self.kept(8.0)
    }

    /// Those of them that only products read.
    pub fn operands(&self) -> usize {
        self.kept(6.0)
    }

    /// So many widths of each place and block, and the feed-forward layer's numbers.
    fn kept(&self, widths: f64) -> usize {
        let stages = self.depths.iter().enumerate();
        let block = |stage: usize| ((widths + self.mlp_ratio) * (self.embed_dim << stage) as f64) as usize;
        stages.map(|(stage, depth)| self.grid(stage).pow(2) * depth * block(stage)).sum()
    }
}
