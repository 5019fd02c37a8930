//! Fused kernels against their plain twins: values, gradients, and gradients against f64, over odd shapes.
#![allow(clippy::unwrap_used)]

mod common;

use candle_core::{DType, Device, Result, Tensor, Var};
use common::{assert_close, numbers};
use reportclip::ops::{self, reference};

const SHAPES: [(usize, usize); 8] = [(1, 1), (1, 7), (3, 1), (5, 13), (17, 64), (33, 31), (130, 48), (257, 65)];

/// A fixed sequence of numbers between −1 and 1.
fn wave(count: usize, phase: f64) -> Vec<f32> {
    (0..count).map(|i| ((i as f64 * 0.7 + phase).sin() * (i as f64 * 0.13 + phase).cos()) as f32).collect()
}

fn var(shape: &[usize], phase: f64, dtype: DType) -> Var {
    let count = shape.iter().product();
    let t = Tensor::from_vec(wave(count, phase), shape, &Device::Cpu).unwrap();
    Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()
}

/// Output and gradients of `f` at f32 and of `twin` at f32 and f64, compared. The loss is a fixed weighting of outputs.
fn compare(
    name: &str,
    shapes: &[&[usize]],
    f: impl Fn(&[&Tensor]) -> Result<Tensor>,
    twin: impl Fn(&[&Tensor]) -> Result<Tensor>,
) {
    let run = |dtype: DType, f: &dyn Fn(&[&Tensor]) -> Result<Tensor>| -> (Tensor, Vec<Tensor>) {
        let vars: Vec<Var> = shapes.iter().enumerate().map(|(i, s)| var(s, i as f64 + 0.3, dtype)).collect();
        let tensors: Vec<&Tensor> = vars.iter().map(|v| v.as_tensor()).collect();
        let y = f(&tensors).unwrap();
        let weights = var(y.dims(), 5.1, dtype);
        let grads = (&y * weights.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let grads = vars.iter().map(|v| grads.get(v).unwrap_or_else(|| panic!("{name}: no gradient")).clone());
        (y.clone(), grads.collect())
    };
    let fused = run(DType::F32, &f);
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-5)] {
        let plain = run(dtype, &twin);
        assert_close(&format!("{name} {shapes:?} {dtype:?}"), &fused.0, &plain.0, tolerance, 1e-6);
        for (i, (a, b)) in fused.1.iter().zip(&plain.1).enumerate() {
            assert_close(&format!("{name} {shapes:?} gradient {i} {dtype:?}"), a, b, tolerance, 1e-6);
        }
    }
}

#[test]
fn linear() {
    for (rows, inner) in SHAPES {
        for out in [1, 9, 40] {
            let shapes: [&[usize]; 3] = [&[rows, inner], &[out, inner], &[out]];
            let twin = |t: &[&Tensor]| reference::linear(t[0], t[1], t.get(2).copied());
            compare("linear", &shapes, |t| ops::linear(t[0], t[1], t[2]), twin);
            compare("linear_no_bias", &shapes[..2], |t| ops::linear_no_bias(t[0], t[1]), twin);
        }
    }
    let shapes: [&[usize]; 3] = [&[2, 3, 5], &[4, 5], &[4]];
    let twin = |t: &[&Tensor]| reference::linear(t[0], t[1], Some(t[2]));
    compare("linear over three dimensions", &shapes, |t| ops::linear(t[0], t[1], t[2]), twin);
}

#[test]
fn layer_norm() {
    for (rows, width) in SHAPES.into_iter().filter(|(_, width)| *width > 1) {
        compare(
            "layer_norm",
            &[&[rows, width], &[width], &[width]],
            |t| ops::layer_norm(t[0], t[1], t[2], 1e-5),
            |t| reference::layer_norm(t[0], t[1], t[2], 1e-5),
        );
    }
}

#[test]
fn softmax() {
    for (rows, width) in SHAPES {
        compare("softmax", &[&[rows, width]], |t| ops::softmax(t[0]), |t| reference::softmax(t[0]));
    }
    let masked = Tensor::new(&[[0f32, f32::NEG_INFINITY, 1.0]], &Device::Cpu).unwrap();
    let y: Vec<Vec<f32>> = ops::softmax(&masked).unwrap().to_vec2().unwrap();
    assert_eq!(y[0][1], 0.0);
    assert!((y[0][0] + y[0][2] - 1.0).abs() < 1e-6);
    let large = Tensor::new(&[[1000f32, 999.0]], &Device::Cpu).unwrap();
    assert!(numbers(&ops::softmax(&large).unwrap()).iter().all(|v| v.is_finite()));
}

#[test]
fn quick_gelu() {
    for (rows, width) in SHAPES {
        compare("quick_gelu", &[&[rows, width]], |t| ops::quick_gelu(t[0]), |t| reference::quick_gelu(t[0]));
    }
    let far = Tensor::new(&[-200f32, 200.0], &Device::Cpu).unwrap();
    let y = numbers(&ops::quick_gelu(&far).unwrap());
    assert!(y[0].abs() < 1e-30 && y[1] == 200.0, "{y:?}");
}

#[test]
fn attention_takes_the_gradient_of_all_three() {
    for (batch, tokens, heads, head_width) in [(1, 1, 1, 3), (3, 5, 2, 4), (2, 17, 3, 5), (1, 33, 1, 8), (5, 7, 4, 1)] {
        for causal in [false, true] {
            let shape: &[usize] = &[batch, tokens, heads * head_width];
            compare(
                "attention",
                &[shape, shape, shape],
                |t| ops::attention(t[0], t[1], t[2], heads, causal),
                |t| reference::attention(t[0], t[1], t[2], heads, causal),
            );
        }
    }
}

#[test]
fn frozen_operands_get_no_gradient_and_cost_none() {
    let (x, w, b) = (var(&[4, 6], 0.1, DType::F32), var(&[3, 6], 0.2, DType::F32), var(&[3], 0.3, DType::F32));
    let grads = ops::linear(&x, &w.detach(), &b.detach()).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get_ids().count() == 1, "only x");
    let frozen_input = x.detach();
    let grads = ops::linear(&frozen_input, &w, &b.detach()).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&w).is_some() && grads.get(&frozen_input).is_none() && grads.get(&b).is_none());
}

#[test]
fn l2_normalize_is_finite_at_zero() {
    let x = Var::from_tensor(&Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap()).unwrap();
    let y = ops::l2_normalize(&x).unwrap();
    assert_eq!(numbers(&y), [0.6000000238418579, 0.800000011920929, 0.0, 0.0]);
    let grads = y.sum_all().unwrap().backward().unwrap();
    let grad = numbers(grads.get(&x).unwrap());
    assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
    // d/dx of (x + y) / |(x, y)| at (3, 4): (|v|² - x (x + y)) / |v|³ = (25 - 21) / 125.
    assert!((grad[0] - 0.032).abs() < 1e-6, "{grad:?}");
}

#[test]
fn squared_sum_and_composed_adamw_agree_with_the_kernels() {
    let x = var(&[257, 301], 0.4, DType::F32);
    let plain: f64 = numbers(&x).iter().map(|v| v * v).sum();
    assert!((ops::squared_sum(&x).unwrap() - plain).abs() < 1e-9 * plain);
    // The kernel in f32 against the composed form, which f64 takes.
    let step =
        ops::AdamwStep { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.1, t: 3, grad_scale: 0.5 };
    let run = |dtype: DType| {
        let [p, g, m] = [0.1, 0.2, 0.3].map(|phase| var(&[37, 3], phase, dtype));
        let v = Var::from_tensor(&m.sqr().unwrap()).unwrap();
        ops::adamw_step(&p, &g, &m, &v, &step).unwrap();
        [p, m, v]
    };
    for (fused, plain) in run(DType::F32).iter().zip(run(DType::F64)) {
        assert_close("adamw", fused, &plain, 1e-6, 0.0);
    }
}
