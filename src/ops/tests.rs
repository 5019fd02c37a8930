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

/// What several layers read is packed once, is not kept for the backward pass, and changes no bit.
#[test]
fn an_operand_of_several_layers_gives_the_same_bits() {
    let shapes: [&[usize]; 3] = [&[65, 77], &[33, 77], &[33, 77]];
    let both = |x: &Value, t: &[&Value]| {
        super::multiply(&super::linear_no_bias(x, t[1])?, &super::linear_operand(x, t[2], None)?.widened()?)
    };
    for of in [Kernel::Model, Kernel::Rounded] {
        let kept = on_tape(of, &shapes, &|t| both(&t[0].clone().used_often(), t));
        assert!(kept == on_tape(of, &shapes, &|t| both(t[0], t)), "{of:?}");
    }
    with_kernel(Kernel::Model, || {
        let tape = Tape::new(3);
        let leaf = |i: usize| tape.leaf(i, wave(shapes[i], 0.3)).with_products(DType::BF16);
        let (x, weight) = (leaf(0).used_often(), leaf(1));
        super::linear_no_bias(&x, &weight).unwrap();
        assert!(x.packed_rows(|| panic!("it was packed before")).is_some());
        assert!(x.without_packed().packed_rows(|| panic!("it is packed elsewhere")).is_none());
    });
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

/// Where no gradient goes back, hidden numbers go packed from product to product, and no bit changes.
#[test]
fn a_feed_forward_layer_gives_the_same_bits_without_gradients() {
    let shapes: [&[usize]; 6] = [&[65, 45], &[77, 45], &[77], &[33, 77], &[33], &[65, 33]];
    let layer = |t: &[&Value]| super::feed_forward(t[0], (t[1], Some(t[2])), Activation::QuickGelu, (t[3], t[4]), t[5]);
    for of in [Kernel::Model, Kernel::Rounded] {
        let with = on_tape(of, &shapes, &layer).swap_remove(0);
        let without: Vec<f32> = with_kernel(of, || {
            let constant =
                |(i, shape): (usize, &&[usize])| Value::from(wave(shape, i as f64 + 0.3)).with_products(DType::BF16);
            let constants: Vec<Value> = shapes.iter().enumerate().map(constant).collect();
            let y = layer(&constants.iter().collect::<Vec<_>>()).unwrap();
            assert_eq!(y.products(), DType::BF16);
            y.tensor().flatten_all().unwrap().to_vec1().unwrap()
        });
        assert!(with == without, "{of:?}");
    }
}

/// A convolution's weight that is used often is packed once each way, by whichever use comes first, and changes no bit.
#[test]
fn a_convolutions_weight_that_is_kept_packed_gives_the_same_bits() {
    let maps = Maps { items: 2, height: 5, width: 6 };
    for (kernel, stride, padding) in [(1, 1, 0), (3, 2, 1)] {
        let shapes: [&[usize]; 2] = [&[maps.rows(), 5], &[37, 5, kernel, kernel]];
        let conv = |x: &Value, weight: &Value| -> Result<Value> {
            let conv = Conv2d { weight, bias: None, residual: None, stride, padding, relu: true };
            Ok(conv.apply(x, maps)?.0)
        };
        let twice = |x: &Value, weight: &Value| super::add(&conv(x, weight)?, &conv(&super::add(x, x)?, weight)?);
        for of in [Kernel::Model, Kernel::Rounded] {
            let kept = on_tape(of, &shapes, &|t| twice(t[0], &t[1].clone().used_often()));
            assert!(kept == on_tape(of, &shapes, &|t| twice(t[0], t[1])), "{of:?}, a kernel of {kernel}");
        }
        with_kernel(Kernel::Model, || {
            let tape = Tape::new(2);
            let leaf = |i: usize| tape.leaf(i, wave(shapes[i], 0.3)).with_products(DType::BF16);
            let (x, weight) = (leaf(0), leaf(1).used_often());
            let y = conv(&x, &weight).unwrap();
            tape.backward([(&y, wave(y.tensor().dims(), 5.1))], &mut |_| Ok(())).unwrap();
            let again = || panic!("it was packed before");
            assert!(weight.packed_forward(again).is_some() && weight.packed_backward(again).is_some());
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
