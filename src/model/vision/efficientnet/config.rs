//! The numbers of an EfficientNet.

use anyhow::{Result, ensure};

use crate::ops::Activation;

/// The shape of an EfficientNet.
#[derive(Clone, Debug, PartialEq)]
pub struct EfficientNetConfig {
    /// Width after the stem.
    pub stem: usize,
    /// The blocks of all stages.
    pub blocks: Vec<MbConvConfig>,
    /// Width of an image's state.
    pub width: usize,
    /// Activation.
    pub activation: Activation,
    /// Batch norm's epsilon.
    pub batch_norm_eps: f64,
    /// Pixels a side.
    pub image_size: usize,
    /// Whether that is the preprocessing's word.
    pub any_size: bool,
    /// The model type whose preprocessing a tower has that comes without any.
    pub preprocessing: &'static str,
}

/// An inverted bottleneck: wider, each channel for itself, narrower again.
#[derive(Clone, Debug, PartialEq)]
pub struct MbConvConfig {
    /// Channels in.
    pub inner: usize,
    /// Channels between; those in where there is no expansion.
    pub expanded: usize,
    /// Channels out.
    pub outer: usize,
    /// Pixels a side of the kernel.
    pub kernel: usize,
    /// Pixels between neighbouring outputs, 1 or 2.
    pub stride: usize,
    /// Channels inside the squeeze-and-excite layer, where there is one.
    pub squeezed: Option<usize>,
    /// Whether what goes in is added to what comes out.
    pub residual: bool,
    /// Where a stride of 2 begins.
    pub margin: Margin,
}

/// The zeros before a map's first pixel where a kernel goes by twos.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Margin {
    /// As TensorFlow's "same": as few as the map's side needs.
    BySide,
    /// One less than half the kernel: "same" for even sides.
    Less,
    /// Half the kernel: "same" for odd sides.
    Half,
}

impl Margin {
    /// The zeros before the first of `side` pixels under a kernel of `kernel`.
    pub fn before(self, kernel: usize, side: usize) -> usize {
        match self {
            Self::BySide => kernel / 2 - usize::from(side.is_multiple_of(2)),
            Self::Less => kernel / 2 - 1,
            Self::Half => kernel / 2,
        }
    }
}

impl EfficientNetConfig {
    /// Whether the numbers make a tower.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<()> {
        let halvings = 1 + self.blocks.iter().filter(|block| block.stride == 2).count();
        ensure!(
            halvings < 16 && self.image_size >= 1 << halvings,
            "image_size is {}; allowed is at least {}",
            self.image_size,
            1u64 << halvings.min(16)
        );
        for block in &self.blocks {
            ensure!(
                block.kernel % 2 == 1 && block.kernel >= 3 && matches!(block.stride, 1 | 2),
                "a block has a kernel of {} and a stride of {}; allowed are odd kernels of at least 3, strides 1 and 2",
                block.kernel,
                block.stride
            );
            ensure!(
                !block.residual || (block.inner == block.outer && block.stride == 1),
                "a block repeats with {} channels in and {} out",
                block.inner,
                block.outer
            );
        }
        Ok(())
    }

    /// Numbers kept for the backward pass of one image, about: each convolution's output, before and after its
    /// activation.
    pub fn activations(&self) -> usize {
        let mut side = self.image_size.div_ceil(2);
        let mut sum = 2 * side * side * self.stem;
        for block in &self.blocks {
            let before = side * side * block.expanded;
            side = side.div_ceil(block.stride);
            sum += 2 * before + side * side * (2 * block.expanded + block.outer);
        }
        sum + 2 * side * side * self.width
    }
}
