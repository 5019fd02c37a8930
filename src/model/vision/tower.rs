//! What every image tower gives: its numbers, and its layers over a set of weights.

use std::any::Any;
use std::fmt::Debug;

use anyhow::Result;
use candle_core::Tensor;

use crate::model::freeze::FreezeDepth;
use crate::model::graph::{Drawing, Edge};
use crate::model::params::Builder;
use crate::ops::Value;

/// The shape of an image tower, and what the rest of the program asks of it.
pub trait VisionConfig: CloneVisionConfig + Any + Debug + Send + Sync {
    /// The kind of tower, for messages.
    fn name(&self) -> &'static str;

    /// Width of an image's state.
    fn width(&self) -> usize;

    /// Pixels a side.
    fn image_size(&self) -> usize;

    /// Asks for another size; learnt positions are interpolated when weights are loaded.
    fn set_image_size(&mut self, size: usize);

    /// Blocks that freezing counts, over all stages.
    fn blocks(&self) -> usize;

    /// Numbers that the layers keep for the backward pass of one image, about.
    fn layer_activations(&self) -> usize;

    /// Whether the numbers make a tower.
    ///
    /// # Errors
    /// The first that does not.
    fn check(&self) -> Result<()>;

    /// The tower over the weights that `b` hands out.
    ///
    /// # Errors
    /// A weight that `b` does not have.
    fn build(&self, b: &Builder) -> candle_core::Result<Box<dyn VisionTower>>;

    /// The tower as a graph: pixel_values, (batch, 3, image_size, image_size) → (batch, width).
    ///
    /// # Errors
    /// A weight that was not loaded.
    fn draw(&self, d: &Drawing, pixel_values: &Edge) -> Result<Edge>;

    /// Numbers kept for the backward pass of one image, its pixels with them, about.
    fn activations(&self) -> usize {
        3 * self.image_size() * self.image_size() + self.layer_activations()
    }

    /// Those of [`Self::activations`] that only products read: in bf16 on the CPU each takes half.
    fn operands(&self) -> usize {
        0
    }

    /// Numbers that the layers frozen by `frozen` give for one image; `None` where they cannot be kept.
    fn frozen_numbers(&self, frozen: FreezeDepth) -> Option<usize> {
        (frozen == FreezeDepth::All).then(|| self.width())
    }

    /// Multiply-adds of one image's way through the tower, every token through every block; `None` where they are not
    /// counted.
    fn multiply_adds(&self) -> Option<usize> {
        None
    }

    /// Whether patches can be left out in training.
    fn drops_patches(&self) -> bool {
        false
    }

    /// Whether configs leave the image's size to the preprocessing.
    fn takes_any_size(&self) -> bool {
        false
    }

    /// Whether the tower takes no size but its own, and why.
    fn fixed_size(&self) -> Option<&'static str> {
        None
    }

    /// Positions that are interpolated to another size; `None` where there are none.
    fn learnt_positions(&self) -> Option<LearntPositions> {
        None
    }

    /// Where patches stand among the rows that attend to each other; `None` where no attention is.
    fn patch_rows(&self) -> Option<PatchRows> {
        None
    }

    /// The state as Python code over `image`, what transformers' class of the tower gives.
    fn state_in_python(&self) -> String {
        "image.pooler_output.flatten(1)".into()
    }

    /// The model type of transformers whose preprocessing a tower has that comes without any.
    fn preprocessing(&self) -> &'static str {
        "vit"
    }
}

/// Positions learnt over a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearntPositions {
    /// The weight that holds them, behind `vision_model.`.
    pub weight: &'static str,
    /// Rows before those of the grid.
    pub before: usize,
    /// Places a side of the grid.
    pub grid: usize,
}

/// Rows of one image in the order in which they attend to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchRows {
    /// Rows before the patches.
    pub before: usize,
    /// Patches a side.
    pub grid: usize,
    /// The row that stands for the image; `None` where that is the mean, or what a head gathers.
    pub pooled: Option<usize>,
}

/// Copying and comparing behind a pointer: every config that can be copied and compared has it.
pub trait CloneVisionConfig {
    /// A copy.
    fn boxed(&self) -> Box<dyn VisionConfig>;

    /// Whether both are of one kind and have the same numbers.
    fn equals(&self, other: &dyn VisionConfig) -> bool;
}

impl<T: VisionConfig + Clone + PartialEq> CloneVisionConfig for T {
    fn boxed(&self) -> Box<dyn VisionConfig> {
        Box::new(self.clone())
    }

    fn equals(&self, other: &dyn VisionConfig) -> bool {
        (other as &dyn Any).downcast_ref::<T>() == Some(self)
    }
}

impl Clone for Box<dyn VisionConfig> {
    fn clone(&self) -> Self {
        (**self).boxed()
    }
}

impl PartialEq for dyn VisionConfig {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other)
    }
}

/// The layers of an image tower over a set of weights.
pub trait VisionTower {
    /// pixel_values: (batch, 3, image_size, image_size) → (batch, width).
    ///
    /// # Errors
    /// Images of another size.
    fn forward(&self, pixel_values: &Tensor) -> candle_core::Result<Value>;

    /// [`Self::forward`] with a row for each patch, as the pooling reads it: (batch, width) and (batch · patches,
    /// width), patches row by row of a square.
    ///
    /// # Errors
    /// As [`Self::forward`]; a tower that keeps no patches.
    fn with_patches(&self, _pixel_values: &Tensor) -> candle_core::Result<(Value, Value)> {
        candle_core::bail!("this image tower gives one vector an image, and no patches")
    }

    /// What the layers that `frozen` names make of pixel_values, where [`VisionConfig::frozen_numbers`] says that it
    /// can be kept.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn below(&self, pixel_values: &Tensor, _frozen: FreezeDepth) -> candle_core::Result<Value> {
        self.forward(pixel_values)
    }

    /// [`Self::below`]'s output → (batch, width).
    ///
    /// # Errors
    /// Another shape.
    fn above(&self, x: Value, _frozen: FreezeDepth) -> candle_core::Result<Value> {
        Ok(x)
    }
}
