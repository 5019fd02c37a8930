//! The numbers of a ResNet.

use anyhow::{Result, ensure};

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
    /// Width of an image's state.
    pub fn width(&self) -> usize {
        self.hidden.last().copied().unwrap_or(self.embedding)
    }

    /// Pixels a side of the last map of CLIP's form, which has one learnt position each.
    pub fn grid(&self) -> usize {
        self.image_size / 32
    }

    /// Width inside a layer.
    pub fn inner(&self, width: usize) -> usize {
        if self.bottleneck { width / 4 } else { width }
    }

    pub fn check(&self) -> Result<()> {
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
    pub fn activations(&self) -> usize {
        let mut side = self.image_size / 4;
        let stem = self.image_size * self.image_size / 4 * self.embedding;
        let stages = self.hidden.iter().zip(&self.depths).enumerate().map(|(i, (width, depth))| {
            side = if i > 0 { side.div_ceil(2) } else { side };
            side * side * depth * (width + 2 * self.inner(*width))
        });
        stem + stages.sum::<usize>()
    }
}
