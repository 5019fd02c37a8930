//! Whole operations in bf16 over a model of tile registers, with their gradients, against the same over products of f32
//! on rounded operands.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor};

use super::gemm::{Kernel, with_kernel};
use super::{Activation, Attention, Conv2d, Maps, Segments, Tape, Value};

fn wave(shape: &[usize], phase: f64) -> Tensor {
    let number = |i: usize| ((i as f64 * 0.7 + phase).sin() * (i as f64 * 0.13 + phase).cos()) as f32;
    Tensor::from_vec((0..shape.iter().product()).map(number).collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

/// Output and gradients of `f` over this kernel.
fn on_tape(kernel: Kernel, shapes: &[&[usize]], f: &(dyn Fn(&[&Value]) -> Result<Value> + Sync)) -> Vec<Vec<f32>> {
    with_kernel(kernel, || {
        assert_eq!(Kernel::of_this_machine(), kernel);
        let tape = Tape::new(shapes.len());
        let leaf =
            |(i, shape): (usize, &&[usize])| tape.leaf(i, wave(shape, i as f64 + 0.3)).with_products(DType::BF16);
        let leaves: Vec<Value> = shapes.iter().enumerate().map(leaf).collect();
        let y = f(&leaves.iter().collect::<Vec<_>>()).unwrap();
        tape.backward([(&y, wave(y.tensor().dims(), 5.1))], &mut |_| Ok(())).unwrap();
        let grads = (0..shapes.len()).map(|i| tape.take_grad(i).unwrap().into_dense().unwrap());
        let numbers = |x: Tensor| x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        std::iter::once(y.tensor().clone()).chain(grads).map(numbers).collect()
    })
}

/// ‖a − b‖ / ‖b‖
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let apart: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    (apart / b.iter().map(|&b| square(b.into())).sum::<f64>()).sqrt()
}

/// `allowed`: by norm, of the output and each gradient.
fn compare(name: &str, allowed: f64, shapes: &[&[usize]], f: impl Fn(&[&Value]) -> Result<Value> + Sync) {
    let (ours, theirs) = (on_tape(Kernel::Model, shapes, &f), on_tape(Kernel::Rounded, shapes, &f));
    for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
        let off = distance(a, b);
        assert!(off < allowed, "{name} {shapes:?}: number {i} (0: output, then gradients) is off by {off:e}");
    }
    assert!(ours != theirs, "{name} {shapes:?}: sums in another order differ somewhere");
}

/// Where nothing is rounded between a product and what is compared.
const EXACT: f64 = 1e-6;
/// Where a number is, and may become its other neighbour in bf16.
const ROUNDED: f64 = 1e-3;

#[test]
fn linear_layers_run_over_tile_registers() {
    for (rows, inner, out) in [(65, 77, 33), (7, 130, 50), (1, 45, 9)] {
        let shapes: [&[usize]; 4] = [&[rows, inner], &[out, inner], &[out], &[rows, out]];
        compare("linear", EXACT, &shapes[..3], |t| super::linear(t[0], t[1], t[2]));
        compare("residual", EXACT, &shapes, |t| super::linear_residual(t[0], t[1], t[2], t[3]));
        compare("packed once", EXACT, &shapes[..2], |t| super::linear_no_bias(t[0], &t[1].clone().used_often()));
        compare("operand", ROUNDED, &shapes[..3], |t| super::linear_operand(t[0], t[1], Some(t[2])));
        for kind in [Activation::QuickGelu, Activation::Gelu] {
            compare("activated, of f32", ROUNDED, &shapes, |t| {
                super::activated_linear_residual(t[0], kind, t[1], t[2], t[3])
            });
            compare("activated, of bf16", ROUNDED, &shapes, |t| {
                super::activated_linear_residual(&t[0].as_operand()?, kind, t[1], t[2], t[3])
            });
        }
    }
}

#[test]
fn convolutions_run_over_tile_registers() {
    for (kernel, stride, padding, relu) in [(1, 1, 0, false), (3, 2, 1, false), (3, 1, 1, true)] {
        let maps = Maps { items: 3, height: 7, width: 9 };
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let to = 3 * side(7) * side(9);
        let shapes: [&[usize]; 4] = [&[maps.rows(), 5], &[37, 5, kernel, kernel], &[37], &[to, 37]];
        compare("conv2d", EXACT, &shapes, |t| {
            let conv = Conv2d { weight: t[1], bias: Some(t[2]), residual: Some(t[3]), stride, padding, relu };
            Ok(conv.apply(t[0], maps)?.0)
        });
    }
}

#[test]
fn attention_runs_over_tile_registers() {
    let (width, segments) = (3 * 22, Segments::of_lengths([5, 37, 1]));
    let shape: &[usize] = &[segments.rows(), width];
    for causal in [false, true] {
        let attention = Attention::within(&segments, 3, causal);
        compare("attention", ROUNDED, &[shape; 3], |t| attention.apply(t[0], t[1], t[2]));
        compare("attention, of bf16", ROUNDED, &[shape; 3], |t| {
            attention.apply(&t[0].as_operand()?, &t[1].as_operand()?, &t[2].as_operand()?)
        });
    }
}
