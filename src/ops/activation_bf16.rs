//! Activations of numbers in bf16, of which there are 65,536: each is worked out once a process and looked up from then
//! on. What layers hold are few of them, whose places in the tables stay in the first cache. Of a product's numbers,
//! rounding included, looking up takes 0.5 ns each, working out 1.3 (quick GELU;
//! measured on Zen 3 with AVX2 only, not on processors that have products in bf16).

use std::sync::OnceLock;

use candle_core::{Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::activation::{self, Loops, loops};
use super::alloc::overwritten;
use super::cpu::{self, Either};
use super::gemm::Piece;
use super::operand;
use super::profile::{self, Part};
use super::round::{bits, narrow, widened};
use super::simd::vectorised;
use super::spec::Activation;

/// Numbers in bf16.
const ALL: usize = 1 << 16;

/// What an activation makes of each number, by its bits.
pub(super) struct Table {
    active: Box<[bf16]>,
    slope: Box<[f32]>,
}

impl Table {
    fn of(kind: Activation) -> &'static Self {
        static TABLES: [OnceLock<Table>; Activation::Relu6 as usize + 1] =
            [const { OnceLock::new() }; Activation::Relu6 as usize + 1];
        TABLES[kind as usize].get_or_init(|| {
            let Loops { forward, backward, .. } = loops(kind);
            let x: Vec<f32> = (0..=u16::MAX).map(|bits| widened(bf16::from_bits(bits))).collect();
            let (mut y, mut slope, mut active) = (vec![0.0; ALL], vec![1.0; ALL], vec![bf16::ZERO; ALL]);
            forward(&x, &mut y);
            backward(&x, &mut slope);
            narrow(&y, &mut active);
            Self { active: active.into(), slope: slope.into() }
        })
    }
}

vectorised! {
    fn activate(table: &Table, x: &[bf16], y: &mut [bf16]) {
        // A length that the compiler knows: no bits lead past it.
        let active = &table.active[..ALL];
        y.iter_mut().zip(x).for_each(|(y, x)| *y = active[usize::from(x.to_bits())]);
    }
}

vectorised! {
    fn activate_piece(table: &Table, piece: &mut Piece) {
        let active = &table.active[..ALL];
        for row in piece.rows() {
            row.iter_mut().for_each(|y| *y = widened(active[usize::from(bits(*y))]));
        }
    }
}

vectorised! {
    fn times_slope(table: &Table, x: &[bf16], grad: &mut [f32]) {
        let slope = &table.slope[..ALL];
        grad.iter_mut().zip(x).for_each(|(g, x)| *g *= slope[usize::from(x.to_bits())]);
    }
}

/// Activated numbers of a CPU tensor in f32 or bf16, (rows, columns), rounded to bf16 for the product that reads them.
pub(super) fn rounded(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let numbers = operand::read(x)?;
    let Either::Bf16(xs) = numbers.line() else { return activation::rounded(x, kind) };
    let _timed = profile::enter(Part::Activation);
    let (table, mut y) = (Table::of(kind), overwritten(xs.len()));
    y.par_chunks_mut(cpu::BLOCK).zip(xs.par_chunks(cpu::BLOCK)).for_each(|(y, x)| activate(table, x, y));
    Tensor::from_vec(y, x.dims(), x.device())
}

/// Activates what becomes of a product's numbers that are rounded to bf16.
pub(super) fn of_rounded(kind: Activation) -> impl Fn(&mut Piece) + Sync {
    let table = Table::of(kind);
    move |piece| activate_piece(table, piece)
}

/// Multiplies gradients by the activation's slope at the numbers from a place on, and writes the activated numbers,
/// rounded, where they are wanted.
pub(super) fn slope(kind: Activation) -> impl Fn(Either, usize, &mut [f32], Option<&mut [bf16]>) + Sync {
    let (table, Loops { backward, both, .. }) = (Table::of(kind), loops(kind));
    move |x, start, grad, active| {
        let end = start + grad.len();
        match (x, active) {
            (Either::F32(x), None) => backward(&x[start..end], grad),
            (Either::F32(x), Some(active)) => both(&x[start..end], active, grad),
            (Either::Bf16(x), active) => {
                let x = &x[start..end];
                times_slope(table, x, grad);
                if let Some(active) = active {
                    activate(table, x, active);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are no number, or equal.
    fn same(a: f32, b: f32) -> bool {
        a == b || a.is_nan() && b.is_nan()
    }

    #[test]
    fn what_is_looked_up_is_what_is_worked_out() {
        use Activation::{Gelu, GeluTanh, QuickGelu, Relu, Relu6, Sigmoid, Silu, Tanh};
        let halves: Vec<bf16> = (0..=u16::MAX).map(bf16::from_bits).collect();
        let x: Vec<f32> = halves.iter().map(|x| x.to_f32()).collect();
        for kind in [QuickGelu, Gelu, GeluTanh, Relu, Tanh, Silu, Sigmoid, Relu6] {
            let wave: Vec<f32> = (0..x.len()).map(|i| (i as f32 * 0.37).sin()).collect();
            let (mut y, mut grad) = (vec![0.0; x.len()], wave.clone());
            (loops(kind).forward)(&x, &mut y);
            (loops(kind).backward)(&x, &mut grad);
            let (first, mut active, mut looked_up) = (77, vec![bf16::ZERO; ALL - 77], wave[77..].to_vec());
            slope(kind)(Either::Bf16(&halves), first, &mut looked_up, Some(&mut active));
            for i in first..ALL {
                let expected = bf16::from_f32(y[i]).to_f32();
                assert!(same(active[i - first].to_f32(), expected), "{kind:?} of {}", x[i]);
                assert!(same(looked_up[i - first], grad[i]), "{kind:?}, slope at {}", x[i]);
            }
            let mut alone = wave[77..].to_vec();
            slope(kind)(Either::Bf16(&halves), first, &mut alone, None);
            assert!(alone.iter().zip(&looked_up).all(|(a, b)| same(*a, *b)), "{kind:?}");
            let line = Tensor::from_slice(&halves, (2, ALL / 2), &candle_core::Device::Cpu).unwrap();
            let all = rounded(&line, kind).unwrap().flatten_all().unwrap().to_vec1::<bf16>().unwrap();
            assert!(all[first..].iter().zip(&active).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind:?}");
        }
    }
}
