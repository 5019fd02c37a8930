//! What training drops at random: numbers of a branch's output, inputs of adapters, patches. Every mask is a pure
//! function of the seed, the step, the chunk and the layer's name, so that a chunk that runs again, for GradCache or
//! because its activations were not kept, meets the same one.

use std::cell::Cell;
use std::rc::Rc;

use candle_core::{DType, Result, Tensor};
use rand::RngExt;
use rand::seq::SliceRandom;

use crate::ops::{self, Value};
use crate::seed::{Purpose, name_index, stream};

/// [`ops::recomputed`] for an `f` that drops by `noise`: when it runs again, another chunk may be running, or the part
/// of a chunk that it belongs to may be over.
///
/// # Errors
/// Those of `f`.
pub(in crate::model) fn recomputed(
    noise: Option<&Rc<Noise>>,
    x: &Value,
    weights: &[&Value],
    f: impl Fn(&Value) -> Result<Value> + 'static,
) -> Result<Value> {
    let Some(noise) = noise else { return ops::recomputed(x, weights, f) };
    let (number, noise) = (noise.chunk.get(), Rc::clone(noise));
    ops::recomputed(x, weights, move |x| noise.during(number, || f(x)))
}

/// Rates, and where training stands.
#[derive(Debug, Default)]
pub struct Noise {
    /// Share of the numbers that a block's branches hand on which are dropped.
    pub dropout: f64,
    /// Share of an image's patches.
    pub patch_dropout: f64,
    /// Share of the numbers that an adapter gets.
    pub adapter_dropout: f64,
    /// Seed of the masks.
    pub seed: u64,
    /// Optimizer steps done.
    pub step: u64,
    /// Number of the chunk that is running.
    pub chunk: Cell<u64>,
}

impl Noise {
    /// Whether nothing is dropped.
    pub fn is_off(&self) -> bool {
        self.dropout == 0.0 && self.patch_dropout == 0.0 && self.adapter_dropout == 0.0
    }

    /// What `f` gives where chunk `number` is the one that is running.
    pub fn during<T>(&self, number: u64, f: impl FnOnce() -> T) -> T {
        let before = self.chunk.replace(number);
        let result = f();
        self.chunk.set(before);
        result
    }

    fn rng(&self, name: &str) -> rand_chacha::ChaCha8Rng {
        stream(self.seed, Purpose::Dropout, name_index(&format!("{} {} {name}", self.step, self.chunk.get())))
    }

    /// x with `rate` of its numbers 0 and the others larger by 1 / (1 − rate).
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn masked(&self, x: &Value, rate: f64, name: &str) -> Result<Value> {
        if rate == 0.0 {
            return Ok(x.clone());
        }
        let (mut rng, kept) = (self.rng(name), (1.0 / (1.0 - rate)) as f32);
        let mask = (0..x.tensor().elem_count()).map(|_| if rng.random::<f64>() < rate { 0.0 } else { kept });
        let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), x.tensor().shape().clone(), x.tensor().device())?;
        // f64 is what references are worked out in.
        let mask = if x.tensor().dtype() == DType::F64 { mask.to_dtype(DType::F64)? } else { mask };
        ops::multiply(x, &mask.into())
    }

    /// Which of each image's `patches` stay, in order; as many of each image, at least one.
    pub fn kept_patches(&self, images: usize, patches: usize) -> Option<Vec<Vec<usize>>> {
        if self.patch_dropout == 0.0 {
            return None;
        }
        let count = (((1.0 - self.patch_dropout) * patches as f64).round() as usize).max(1);
        let mut rng = self.rng("patches");
        let one = |_| {
            let mut order: Vec<usize> = (0..patches).collect();
            order.shuffle(&mut rng);
            order.truncate(count);
            order.sort_unstable();
            order
        };
        Some((0..images).map(one).collect())
    }
}
