//! Rotary positions (RoPE, arXiv 2104.09864): queries and keys are turned by angles that grow with their place, so that
//! their product knows how far apart they stand. candle's own `rope` has no gradient.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu;
use super::profile::{self, Part};
use super::reference;
use super::spec::Rotary;
use super::tape::{Value, composed};

impl Rotary {
    /// Row r of `x` turned to place `positions[r]`: number i of a head's first half is paired with number i of its
    /// second half. x: (rows, width) → the same, for products alone to read: in bf16 where those are.
    ///
    /// # Errors
    /// Shapes that do not fit, heads of an odd width.
    pub fn apply(&self, x: &Value, positions: &[u32]) -> Result<Value> {
        let _timed = profile::enter(Part::Attention);
        let (rows, width) = x.tensor().dims2()?;
        if self.heads == 0 || !width.is_multiple_of(2 * self.heads) || rows != positions.len() {
            bail!("rotary: {rows} rows of {width} for {} places and {} heads", positions.len(), self.heads);
        }
        let (this, places) = (*self, positions.to_vec());
        let x = &x.widened()?;
        if !cpu::has_kernels(x.tensor()) {
            return composed(&[x], move |t| reference::rotary(t[0], &this, &places))?.as_operand();
        }
        let table = self.table(width, positions);
        let (y, of_x) = (self.turned(x.tensor(), &table, &places, 1.0)?, x.grad());
        let turned = Value::record(y, &[x], move |grad| {
            // A turn's gradient is turned back.
            of_x.add(this.turned(&grad, &table, &places, -1.0)?)
        });
        turned.as_operand()
    }

    /// Cosine and sine of each pair, place by place up to the last one used.
    fn table(&self, width: usize, positions: &[u32]) -> Vec<(f32, f32)> {
        let places = positions.iter().max().map_or(0, |last| last + 1);
        let turns = |place| self.angles(width, place).into_iter().map(|angle| (angle.cos(), angle.sin()));
        (0..places).flat_map(turns).collect()
    }

    /// `direction` 1 turns, −1 turns back.
    fn turned(&self, x: &Tensor, table: &[(f32, f32)], places: &[u32], direction: f32) -> Result<Tensor> {
        let width = x.dim(1)?;
        let pairs = width / self.heads / 2;
        let xs = cpu::read(x)?;
        let mut y = vec![0f32; xs.len()];
        let rows = y.par_chunks_mut(width).zip(xs.par_chunks(width)).zip(places);
        rows.for_each(|((y, x), &place)| {
            let turns = &table[place as usize * pairs..][..pairs];
            for (y, x) in y.chunks_exact_mut(2 * pairs).zip(x.chunks_exact(2 * pairs)) {
                let ((y1, y2), (x1, x2)) = (y.split_at_mut(pairs), x.split_at(pairs));
                for (i, (cos, sin)) in turns.iter().enumerate() {
                    let sin = direction * sin;
                    y1[i] = x1[i] * cos - x2[i] * sin;
                    y2[i] = x2[i] * cos + x1[i] * sin;
                }
            }
        });
        Tensor::from_vec(y, x.dims(), x.device())
    }
}
