//! What attention adds to its scores by place.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::cpu;
use super::segments::Segments;
use super::spec::Attention;
use super::tape::Value;

/// What is added to the scores of each head by where query and key stand, as in Swin and BEiT. Items then have one
/// length.
#[derive(Clone, Debug)]
pub struct PositionBias {
    /// (entries, heads)
    pub table: Value,
    /// Entry of each query and key: (queries · keys).
    pub index: Arc<[u32]>,
    /// Added to the scores of all heads: (windows, queries · keys), for items 0, 1, … and again from the first.
    pub mask: Option<Arc<[f32]>>,
}

impl PositionBias {
    /// Laid out for the loops.
    pub(super) fn expand(&self) -> Result<Expanded> {
        let heads = self.table.tensor().dim(1)?;
        let table = cpu::read(self.table.tensor())?;
        let of_head = |h: usize| self.index.iter().map(|&entry| table[entry as usize * heads + h]).collect::<Vec<_>>();
        Ok(Expanded { scores: (0..heads).flat_map(of_head).collect(), mask: self.mask.clone() })
    }

    /// Takes (heads, queries · keys) back to the table.
    pub(super) fn add_grad(&self, grad: &[f32]) -> Result<()> {
        let (entries, heads) = self.table.tensor().dims2()?;
        let mut sums = vec![0f32; entries * heads];
        for (h, grad) in grad.chunks_exact(self.index.len()).enumerate() {
            self.index.iter().zip(grad).for_each(|(&entry, g)| sums[entry as usize * heads + h] += g);
        }
        self.table.add_grad(Tensor::from_vec(sums, (entries, heads), self.table.tensor().device())?)
    }

    /// That it fits items of this shape.
    pub(super) fn check(&self, shape: &Attention) -> Result<()> {
        let (entries, heads) = self.table.tensor().dims2()?;
        let n = self.index.len();
        let even = |s: &Segments| s.items() == 0 || s.spans().all(|(_, length)| length * s.items() == s.rows());
        let fits = shape.queries.spans().zip(shape.keys.spans()).all(|((_, q), (_, k))| q * k == n);
        let known = self.index.iter().all(|&entry| (entry as usize) < entries);
        let masked = self.mask.as_ref().is_none_or(|m| !m.is_empty() && m.len() % n == 0);
        if heads != shape.heads || !fits || !known || !masked || !even(&shape.queries) || !even(&shape.keys) {
            bail!("attention: a bias of {entries} entries and {heads} heads for {n} places does not fit {shape:?}");
        }
        Ok(())
    }
}

/// A [`PositionBias`] laid out for the loops.
pub(super) struct Expanded {
    /// (heads, queries · keys)
    scores: Vec<f32>,
    mask: Option<Arc<[f32]>>,
}

impl Expanded {
    /// Adds what belongs to head `head` of item `item`.
    pub fn add_to(&self, scores: &mut [f32], item: usize, head: usize) {
        let bias = &self.scores[head * scores.len()..(head + 1) * scores.len()];
        scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        if let Some(mask) = &self.mask {
            let mask = &mask[item % (mask.len() / scores.len()) * scores.len()..][..scores.len()];
            scores.iter_mut().zip(mask).for_each(|(s, m)| *s += m);
        }
    }
}
