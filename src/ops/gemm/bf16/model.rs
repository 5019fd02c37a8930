//! Tile registers and vectors of pairs in plain Rust, so that what runs over the first is tested on machines without
//! any, and what instructions compute is held against what their manual says.

use super::blocks::{Blocks, Sums};
use super::pack::{Line, SIDE, TILE};
use super::tiles::{Tiles, block};

/// Eight registers.
pub(super) struct Model([[Line; TILE]; 8]);

/// Numbers below the smallest normal one are zero, of operands and of results.
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0_f32.copysign(x) } else { x }
}

/// (earlier, later) of a pair.
fn pair(x: u32) -> [f32; 2] {
    [f32::from_bits(x << 16), f32::from_bits(x & 0xffff_0000)].map(flushed)
}

impl Tiles for Model {
    fn zero<const TO: u8>(&mut self) {
        self.0[usize::from(TO)] = [Line([0; 16]); TILE];
    }

    fn load<const TO: u8>(&mut self, from: &[Line; TILE]) {
        self.0[usize::from(TO)] = *from;
    }

    /// As Intel's manual has TDPBF16PS: earlier and later numbers of pairs are summed apart, each product added with
    /// one rounding, then both sums together, and that to what was there.
    fn multiply<const TO: u8, const A: u8, const B: u8>(&mut self) {
        let (a, b) = (self.0[usize::from(A)], self.0[usize::from(B)]);
        for (line, row) in self.0[usize::from(TO)].iter_mut().zip(&a) {
            let mut sums = [[0f32; 2]; 16];
            for (&x, row) in row.0.iter().zip(&b) {
                let x = pair(x);
                for (sums, &y) in sums.iter_mut().zip(&row.0) {
                    let y = pair(y);
                    *sums = [0, 1].map(|half| flushed(x[half].mul_add(y[half], sums[half])));
                }
            }
            for (to, [earlier, later]) in line.0.iter_mut().zip(sums) {
                *to = flushed(flushed(f32::from_bits(*to)) + flushed(earlier + later)).to_bits();
            }
        }
    }

    fn store<const FROM: u8>(&self, to: &mut [f32]) {
        for (line, to) in self.0[usize::from(FROM)].iter().zip(to.chunks_mut(SIDE)) {
            line.0.iter().zip(&mut to[..TILE]).for_each(|(&x, to)| *to = f32::from_bits(x));
        }
    }

    fn expect(&self, _: *const Line) {}
}

impl Blocks for Model {
    fn start() -> Self {
        // What a register held before must not matter.
        Self([[Line([0x7fc0_7fc0; 16]); TILE]; 8])
    }

    fn block(&mut self, a: &[Line], b: &[Line], sums: &mut Sums) {
        block(self, a, b, sums);
    }
}

/// Vectors of pairs, as Intel's manual has VDPBF16PS: the product of a pair's later numbers is added first, then that
/// of the earlier ones, each with one rounding.
pub(super) struct Pairs;

impl Blocks for Pairs {
    fn start() -> Self {
        Self
    }

    fn block(&mut self, a: &[Line], b: &[Line], sums: &mut Sums) {
        let steps = || a.as_chunks::<SIDE>().0.iter().zip(b.as_chunks::<SIDE>().0);
        for (at, sum) in sums.0.iter_mut().enumerate() {
            let (row, column) = (at / SIDE, at % SIDE);
            let pairs = steps().flat_map(|(a, b)| {
                let of_b = &b[column / TILE * TILE..][..TILE];
                a[row].0.iter().zip(of_b).map(|(&x, y)| (pair(x), pair(y.0[column % TILE])))
            });
            *sum = pairs.fold(0.0, |sum, (x, y)| {
                let sum = flushed(x[1].mul_add(y[1], sum));
                flushed(x[0].mul_add(y[0], sum))
            });
        }
    }
}
