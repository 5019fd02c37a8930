//! A weight as layers declare it: where it belongs, its shape, how it starts.

use candle_core::{Device, Result, Shape, Tensor};
use rand::RngExt;

use crate::seed;

/// Which part of the model a weight belongs to. Learning rates and freezing go by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The image tower without its projection.
    Image,
    /// The text tower without its projection.
    Text,
    /// Projections and logit_scale.
    Heads,
}

/// How deep in its tower a weight sits, from the input up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Patches, tokens, positions, and the norm before the blocks.
    Embeddings,
    /// The transformer block of this number, from 0.
    Block(usize),
    /// Everything after the blocks.
    Final,
}

/// How a weight starts where no file gives it.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f64),
    /// One value everywhere.
    Const(f64),
}

/// One weight as the layers declare it.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// Hugging Face's name.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// How it starts in a model that is not pretrained.
    pub init: Init,
    /// Part of the model.
    pub part: Part,
    /// Depth in its tower.
    pub depth: Depth,
    /// Whether weight decay applies: matrices yes; biases, norms, positions and logit_scale no.
    pub decay: bool,
    /// Whether it is no weight but a number that the model keeps as it came, such as a batch norm's mean.
    pub buffer: bool,
}

impl ParamSpec {
    /// Fresh numbers for this weight; a pure function of its name and `seed`.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn random(&self, seed: u64, device: &Device) -> Result<Tensor> {
        match self.init {
            Init::Const(value) => Tensor::full(value as f32, self.shape.clone(), device),
            Init::Normal(std) => {
                let mut rng = seed::stream(seed, seed::Purpose::Init, seed::name_index(&self.name));
                let mut normal = || {
                    // Box and Muller; 1 - u keeps the logarithm finite.
                    let (u, v): (f64, f64) = (rng.random(), rng.random());
                    (std * (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
                };
                let numbers: Vec<f32> = (0..self.shape.elem_count()).map(|_| normal()).collect();
                Tensor::from_vec(numbers, self.shape.clone(), device)
            }
        }
    }
}
