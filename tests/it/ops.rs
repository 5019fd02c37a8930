//! Fused kernels against their plain twins: values, gradients, and gradients against f64, over odd shapes; and the same
//! operations without kernels (f64 takes the way that CUDA takes).
#![allow(clippy::unwrap_used)]

use crate::common::{assert_close, numbers};
use candle_core::{DType, Device, Result, Tensor, Var};
use reportclip::ops::{
    self, Activation, Attention, Contrastive, Conv2d, Gradient, LocalSimilarity, Maps, PositionBias, Rotary, Segments,
    Tape, Value, reference,
};

const SHAPES: [(usize, usize); 8] = [(1, 1), (1, 7), (3, 1), (5, 13), (17, 64), (33, 31), (130, 48), (257, 65)];

/// All but the rectifier, whose gradient jumps, which is no matter of rounding.
const ACTIVATIONS: [Activation; 3] = [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh];

/// A fixed sequence of numbers between −1 and 1.
fn wave(count: usize, phase: f64) -> Vec<f32> {
    (0..count).map(|i| ((i as f64 * 0.7 + phase).sin() * (i as f64 * 0.13 + phase).cos()) as f32).collect()
}

fn tensor(shape: &[usize], phase: f64, dtype: DType) -> Tensor {
    let count = shape.iter().product();
    Tensor::from_vec(wave(count, phase), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn var(shape: &[usize], phase: f64, dtype: DType) -> Var {
    Var::from_tensor(&tensor(shape, phase, dtype)).unwrap()
}

fn inputs(shapes: &[&[usize]], dtype: DType) -> Vec<Tensor> {
    shapes.iter().enumerate().map(|(i, s)| tensor(s, i as f64 + 0.3, dtype)).collect()
}

/// Output and gradients on the tape; the loss is a fixed weighting of outputs.
fn on_tape(shapes: &[&[usize]], dtype: DType, f: impl Fn(&[&Value]) -> Result<Value>) -> (Tensor, Vec<Tensor>) {
    let tape = Tape::new(shapes.len());
    let leaves: Vec<Value> = inputs(shapes, dtype).into_iter().enumerate().map(|(i, t)| tape.leaf(i, t)).collect();
    let y = f(&leaves.iter().collect::<Vec<_>>()).unwrap();
    let weights = tensor(y.tensor().dims(), 5.1, dtype);
    let mut finished = Vec::new();
    let mut note = |leaf| {
        finished.push(leaf);
        Ok(())
    };
    tape.backward([(&y, weights)], &mut note).unwrap();
    finished.sort_unstable();
    assert_eq!(finished, (0..shapes.len()).collect::<Vec<_>>(), "every leaf is told of once");
    let grad = |i| tape.take_grad(i).unwrap_or_else(|| panic!("no gradient for input {i}")).into_dense().unwrap();
    (y.tensor().clone(), (0..shapes.len()).map(grad).collect())
}

/// The same by candle's own differentiation.
fn by_candle(shapes: &[&[usize]], dtype: DType, f: impl Fn(&[&Tensor]) -> Result<Tensor>) -> (Tensor, Vec<Tensor>) {
    let vars: Vec<Var> = inputs(shapes, dtype).iter().map(|t| Var::from_tensor(t).unwrap()).collect();
    let y = f(&vars.iter().map(|v| v.as_tensor()).collect::<Vec<_>>()).unwrap();
    let weights = tensor(y.dims(), 5.1, dtype);
    let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    (y.clone(), vars.iter().map(|v| grads.get(v).unwrap().clone()).collect())
}

fn compare(
    name: &str,
    shapes: &[&[usize]],
    f: impl Fn(&[&Value]) -> Result<Value>,
    twin: impl Fn(&[&Tensor]) -> Result<Tensor>,
) {
    let exact = by_candle(shapes, DType::F64, &twin);
    let check =
        |way: &str, ours: (Tensor, Vec<Tensor>), theirs: &(Tensor, Vec<Tensor>), relative: f64, absolute: f64| {
            assert_close(&format!("{name} {shapes:?} {way}"), &ours.0, &theirs.0, relative, absolute);
            for (i, (a, b)) in ours.1.iter().zip(&theirs.1).enumerate() {
                assert_close(&format!("{name} {shapes:?} gradient {i} {way}"), a, b, relative, absolute);
            }
        };
    check("f32 and the twin", on_tape(shapes, DType::F32, &f), &by_candle(shapes, DType::F32, &twin), 1e-5, 1e-6);
    check("f32 and f64", on_tape(shapes, DType::F32, &f), &exact, 1e-5, 1e-6);
    check("without kernels", on_tape(shapes, DType::F64, &f), &exact, 1e-13, 1e-13);
}

#[test]
fn linear_in_all_its_forms() {
    for (rows, inner) in SHAPES {
        for out in [1, 9, 40] {
            let shapes: [&[usize]; 4] = [&[rows, inner], &[out, inner], &[out], &[rows, out]];
            let plain = |t: &[&Tensor]| reference::linear(t[0], t[1], t.get(2).copied());
            compare("linear", &shapes[..3], |t| ops::linear(t[0], t[1], t[2]), plain);
            compare("linear_no_bias", &shapes[..2], |t| ops::linear_no_bias(t[0], t[1]), plain);
            compare("linear_residual", &shapes, |t| ops::linear_residual(t[0], t[1], t[2], t[3]), |t| plain(t)? + t[3]);
            for kind in ACTIVATIONS {
                let active = |t: &[&Tensor]| reference::activation(t[0], kind);
                compare(
                    "activated_linear_residual",
                    &shapes,
                    |t| ops::activated_linear_residual(t[0], kind, t[1], t[2], t[3]),
                    |t| reference::linear(&active(t)?, t[1], Some(t[2]))? + t[3],
                );
            }
        }
    }
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
fn activations() {
    for kind in ACTIVATIONS {
        for (rows, width) in SHAPES {
            let twin = |t: &[&Tensor]| reference::activation(t[0], kind);
            compare(&format!("{kind:?}"), &[&[rows, width]], |t| kind.apply(t[0]), twin);
        }
        let far = Value::from(Tensor::new(&[-200f32, 200.0], &Device::Cpu).unwrap());
        let y = numbers(kind.apply(&far).unwrap().tensor());
        assert!(y[0].abs() < 1e-4 && y[1] == 200.0, "{kind:?}: {y:?}");
    }
}

#[test]
fn gates() {
    for kind in ACTIVATIONS {
        for (rows, width) in SHAPES {
            let shapes: [&[usize]; 2] = [&[rows, width], &[rows, width]];
            let twin = |t: &[&Tensor]| reference::activation(t[0], kind)? * t[1];
            compare(&format!("gated {kind:?}"), &shapes, |t| ops::gated(t[0], t[1], kind), twin);
        }
    }
}

#[test]
fn attention_over_items_of_various_lengths() {
    // (heads, width of a head, rows of each item)
    let cases: [(usize, usize, &[usize]); 6] = [
        (1, 3, &[1]),
        (2, 4, &[5, 5, 5]),
        (3, 5, &[17, 1, 9]),
        (1, 8, &[33]),
        (4, 1, &[2, 7, 1, 3]),
        (2, 64, &[50, 77]),
    ];
    for (heads, head_width, lengths) in cases {
        let segments = Segments::of_lengths(lengths.iter().copied());
        let (rows, width) = (segments.rows(), heads * head_width);
        let ones = Segments::even(segments.items(), 1);
        let forms = [
            Attention::within(&segments, heads, false),
            Attention::within(&segments, heads, true),
            Attention { heads, queries: ones.clone(), keys: segments.clone(), causal: false, window: None },
            Attention { heads, queries: ones, keys: segments.clone(), causal: true, window: None },
            Attention { window: Some(2), ..Attention::within(&segments, heads, false) },
            Attention { window: Some(0), ..Attention::within(&segments, heads, false) },
            Attention { window: Some(3), ..Attention::within(&segments, heads, true) },
        ];
        for form in forms {
            let queries: &[usize] = &[form.queries.rows(), width];
            let keys: &[usize] = &[rows, width];
            compare(
                &format!("{form:?}"),
                &[queries, keys, keys],
                |t| form.apply(t[0], t[1], t[2]),
                |t| reference::attention(t[0], t[1], t[2], &form, None),
            );
        }
    }
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let value = |rows: usize| Value::from(tensor(&[rows, 6], 0.1, DType::F32));
    let five = Segments::even(1, 5);
    let apply = |form: &Attention, q, k, v| form.apply(&value(q), &value(k), &value(v)).err().map(|e| e.to_string());
    assert!(apply(&Attention::within(&five, 4, false), 5, 5, 5).unwrap().contains("4 heads do not divide"));
    assert!(apply(&Attention::within(&five, 2, false), 5, 4, 4).unwrap().contains("for 5 query and 5 key rows"));
    let longer = Attention { heads: 2, queries: five.clone(), keys: Segments::even(1, 4), causal: true, window: None };
    assert!(apply(&longer, 5, 4, 4).unwrap().contains("do not fit"));
    assert!(apply(&Attention::within(&five, 2, true), 5, 5, 5).is_none());
}

#[test]
fn rows_are_looked_up_added_and_chosen() {
    let rows: [u32; 7] = [3, 0, 3, 4, 1, 3, 0];
    let twin = |t: &Tensor| reference::select_rows(t, &rows);
    for width in [1, 5, 16] {
        let (table, x): (&[usize], &[usize]) = (&[6, width], &[7, width]);
        compare("embedding", &[table], |t| ops::embedding(t[0], &rows), |t| twin(t[0]));
        compare("add_embedding", &[x, table], |t| ops::add_embedding(t[0], t[1], &rows), |t| t[0] + twin(t[1])?);
        compare("select_rows", &[table], |t| ops::select_rows(t[0], &rows), |t| twin(t[0]));
        let items: &[usize] = &[6, width];
        let prepended = |t: &[&Tensor]| {
            let token = t[0].reshape((1, 1, width))?.broadcast_as((3, 1, width))?.contiguous()?;
            Tensor::cat(&[token, t[1].reshape((3, 2, width))?], 1)?.reshape((9, width))
        };
        compare("prepend", &[&[width], items], |t| ops::prepend(t[0], t[1], 3), prepended);
        compare("reshape", &[items], |t| t[0].reshape((2, 3 * width)), |t| t[0].reshape((2, 3 * width)));
    }
    let table = Value::from(tensor(&[3, 2], 0.0, DType::F32));
    assert!(ops::embedding(&table, &[0, 3]).unwrap_err().to_string().contains("row 3 of a table of 3"));
}

#[test]
fn a_table_looked_up_twice_gets_both_gradients_and_stays_sparse() {
    let tape = Tape::new(1);
    let table = tape.leaf(0, tensor(&[1000, 3], 0.2, DType::F32));
    let (a, b) = (ops::embedding(&table, &[5, 7]).unwrap(), ops::embedding(&table, &[7, 999]).unwrap());
    let ones = |v: &Value| v.tensor().ones_like().unwrap();
    tape.backward([(&a, ones(&a)), (&b, ones(&b))], &mut |_| Ok(())).unwrap();
    let grad = tape.take_grad(0).unwrap();
    assert!(matches!(grad, Gradient::Rows(_)));
    assert_eq!(grad.squared_sum().unwrap(), 3.0 * (1.0 + 4.0 + 1.0));
    let dense: Vec<Vec<f32>> = grad.into_dense().unwrap().to_vec2().unwrap();
    let row = |i: usize| dense[i][0];
    assert_eq!((row(5), row(7), row(999), row(0), dense.len()), (1.0, 2.0, 1.0, 0.0, 1000));
}

#[test]
fn a_value_used_many_times_gets_the_sum() {
    // Residuals, shared inputs and a weight used twice, as one function; dense gradients are added in place.
    let f = |t: &[&Value]| {
        let a = ops::linear_no_bias(t[0], t[1])?;
        let b = ops::linear_residual(&a, t[1], t[2], t[0])?;
        let c = ops::layer_norm(&b, t[2], t[2], 1e-5)?;
        ops::linear_residual(&c, t[1], t[2], &b)
    };
    let twin = |t: &[&Tensor]| {
        let a = reference::linear(t[0], t[1], None)?;
        let b = (reference::linear(&a, t[1], Some(t[2]))? + t[0])?;
        let c = reference::layer_norm(&b, t[2], t[2], 1e-5)?;
        reference::linear(&c, t[1], Some(t[2]))? + b
    };
    compare("shared", &[&[7, 6], &[6, 6], &[6]], f, twin);
}

#[test]
fn recomputed_steps_give_the_same_gradients_and_keep_less() {
    let inner = |x: &Value, w: &Value, b: &Value| ops::linear_residual(&Activation::Gelu.apply(x)?, w, b, x);
    let plain = |t: &[&Value]| inner(&inner(t[0], t[1], t[2])?, t[1], t[2]);
    let recomputed = |t: &[&Value]| {
        let once = |x: &Value| {
            let (w, b) = (t[1].clone(), t[2].clone());
            ops::recomputed(x, &[t[1], t[2]], move |x| inner(x, &w, &b))
        };
        once(&once(t[0])?)
    };
    let shapes: [&[usize]; 3] = [&[9, 4], &[4, 4], &[4]];
    let (a, b) = (on_tape(&shapes, DType::F32, plain), on_tape(&shapes, DType::F32, recomputed));
    assert_eq!(numbers(&a.0), numbers(&b.0));
    for (a, b) in a.1.iter().zip(&b.1) {
        assert_eq!(numbers(a), numbers(b), "bit for bit");
    }
    let tape = Tape::new(3);
    let leaves: Vec<Value> =
        inputs(&shapes, DType::F32).into_iter().enumerate().map(|(i, t)| tape.leaf(i, t)).collect();
    let leaves: Vec<&Value> = leaves.iter().collect();
    recomputed(&leaves).unwrap();
    assert_eq!(tape.steps(), 2, "one step for each part, whatever it holds");
}

#[test]
fn frozen_operands_get_no_gradient_and_what_is_paused_is_not_recorded() {
    let shapes: [&[usize]; 3] = [&[4, 6], &[3, 6], &[3]];
    let numbers = || inputs(&shapes, DType::F32);
    for kept in 0..3 {
        let tape = Tape::new(3);
        let values: Vec<Value> = numbers()
            .into_iter()
            .enumerate()
            .map(|(i, t)| if i == kept { tape.leaf(i, t) } else { t.into() })
            .collect();
        let y = ops::linear(&values[0], &values[1], &values[2]).unwrap();
        tape.backward([(&y, y.tensor().ones_like().unwrap())], &mut |_| Ok(())).unwrap();
        for i in 0..3 {
            assert_eq!(tape.take_grad(i).is_some(), i == kept);
        }
    }
    let tape = Tape::new(3);
    let values: Vec<Value> = numbers().into_iter().enumerate().map(|(i, t)| tape.leaf(i, t)).collect();
    let y = tape.paused(|| ops::linear(&values[0], &values[1], &values[2])).unwrap();
    assert!(tape.steps() == 0 && !y.wants_grad());
    assert!(ops::linear(&values[0], &values[1], &values[2]).unwrap().wants_grad());
}

#[test]
fn contrastive_agrees_with_its_parts() {
    for (batch, width) in [(2, 3), (1, 5), (7, 16), (33, 20)] {
        for (image_to_text, text_to_image) in [(true, true), (true, false), (false, true)] {
            for label_smoothing in [0.0, 0.1, 1.0] {
                let options = Contrastive { label_smoothing, image_to_text, text_to_image };
                let run = |dtype: DType, plain: bool| {
                    let (image, text) = (var(&[batch, width], 0.3, dtype), var(&[batch, width], 1.7, dtype));
                    let scale = Var::from_tensor(&Tensor::new(14f32, &Device::Cpu).unwrap().to_dtype(dtype).unwrap());
                    let scale = scale.unwrap();
                    let f = if plain { reference::contrastive } else { ops::contrastive };
                    let output = f(&image, &text, &scale, &options).unwrap();
                    let grads = (&output.loss * 3.0).unwrap().backward().unwrap();
                    let grads = [&image, &text, &scale].map(|v| grads.get(v).unwrap().clone());
                    (output, grads)
                };
                let fused = run(DType::F32, false);
                for exact in [run(DType::F32, true), run(DType::F64, true), run(DType::F64, false)] {
                    let what = format!("{batch}×{width} {options:?}");
                    assert_close(&what, &fused.0.loss, &exact.0.loss, 1e-5, 1e-6);
                    assert!((fused.0.loss_hard - exact.0.loss_hard).abs() < 2e-5, "{what}");
                    assert_eq!(fused.0.accuracy, exact.0.accuracy, "{what}");
                    for (a, b) in fused.1.iter().zip(&exact.1) {
                        assert_close(&what, a, b, 2e-5, 3e-6);
                    }
                }
            }
        }
    }
}

#[test]
fn contrastive_is_finite_at_zero_features_and_refuses_no_direction() {
    let (zero, text) = (var(&[2, 4], 0.0, DType::F32), var(&[2, 4], 0.5, DType::F32));
    zero.set(&zero.zeros_like().unwrap()).unwrap();
    let scale = Tensor::new(10f32, &Device::Cpu).unwrap();
    let options = Contrastive { label_smoothing: 0.1, image_to_text: true, text_to_image: true };
    let output = ops::contrastive(&zero, &text, &scale, &options).unwrap();
    let grads = output.loss.backward().unwrap();
    assert!(numbers(grads.get(&zero).unwrap()).iter().all(|g| g.is_finite()));
    assert!((f64::from(output.loss.to_scalar::<f32>().unwrap()) - 2f64.ln()).abs() < 1e-6);
    assert_eq!(output.accuracy, 0.0, "ties are wrong");
    let none = Contrastive { image_to_text: false, text_to_image: false, ..options };
    assert!(ops::contrastive(&zero, &text, &scale, &none).is_err());
}

/// Bags of one row, of many, and of more than a vector holds.
#[test]
fn rows_of_bags_are_pooled() {
    for (lengths, width) in [(&[1][..], 1), (&[1, 1, 1], 5), (&[3, 1, 7, 2], 33), (&[40, 1, 129], 48), (&[9, 17], 65)] {
        let segments = Segments::of_lengths(lengths.iter().copied());
        let (x, scores) = ([segments.rows(), width], [segments.rows(), 1]);
        compare(
            "softmax_pool",
            &[&x, &scores],
            |t| ops::softmax_pool(t[0], t[1], &segments),
            |t| reference::softmax_pool(t[0], t[1], &segments),
        );
        compare("max_rows", &[&x], |t| ops::max_rows(t[0], &segments), |t| reference::max_rows(t[0], &segments));
        compare("l2_normalize", &[&x], |t| ops::l2_normalize(t[0]), |t| reference::l2_normalize(t[0]));
        let value = |shape: &[usize]| Value::from(tensor(shape, 0.4, DType::F32));
        let shares = ops::softmax_shares(value(&scores).tensor(), &segments).unwrap();
        for (start, length) in segments.spans() {
            let sum: f64 = shares[start..start + length].iter().map(|share| f64::from(*share)).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{sum}");
        }
    }
    let x = Value::from(tensor(&[3, 2], 0.4, DType::F32));
    for lengths in [&[3, 0][..], &[2], &[4]] {
        let segments = Segments::of_lengths(lengths.iter().copied());
        assert!(ops::max_rows(&x, &segments).is_err() && ops::softmax_pool(&x, &x, &segments).is_err());
    }
}

#[test]
fn a_row_of_zeros_is_normalized_with_a_finite_gradient() {
    let tape = Tape::new(1);
    let x = tape.leaf(0, Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap());
    let y = ops::l2_normalize(&x).unwrap();
    assert_eq!(numbers(y.tensor()), [0.6000000238418579, 0.800000011920929, 0.0, 0.0]);
    tape.backward([(&y, Tensor::ones((2, 2), DType::F32, &Device::Cpu).unwrap())], &mut |_| Ok(())).unwrap();
    let grad = numbers(&tape.take_grad(0).unwrap().into_dense().unwrap());
    assert!(grad.iter().all(|g| g.is_finite()) && (grad[0] - 0.032).abs() < 1e-6, "{grad:?}");
}

#[test]
fn l2_normalize_is_finite_at_zero() {
    let x = Var::from_tensor(&Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).unwrap()).unwrap();
    let y = reference::l2_normalize(&x).unwrap();
    assert_eq!(numbers(&y), [0.6000000238418579, 0.800000011920929, 0.0, 0.0]);
    let grads = y.sum_all().unwrap().backward().unwrap();
    let grad = numbers(grads.get(&x).unwrap());
    assert!(grad.iter().all(|g| g.is_finite()), "{grad:?}");
    // d/dx of (x + y) / |(x, y)| at (3, 4): (|v|² - x (x + y)) / |v|³ = (25 - 21) / 125.
    assert!((grad[0] - 0.032).abs() < 1e-6, "{grad:?}");
}

#[test]
fn squared_sum_and_composed_adamw_agree_with_the_kernels() {
    let x = tensor(&[257, 301], 0.4, DType::F32);
    let plain: f64 = numbers(&x).iter().map(|v| v * v).sum();
    assert!((ops::squared_sum(&x).unwrap() - plain).abs() < 1e-9 * plain);
    // The kernel in f32 against the composed form, which f64 takes.
    let step =
        ops::AdamwStep { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.1, t: 3, grad_scale: 0.5 };
    for shape in [&[37, 3][..], &[20_000], &[130, 129], &[]] {
        let run = |dtype: DType| {
            let [p, g, m] = [0.1, 0.2, 0.3].map(|phase| var(shape, phase, dtype));
            let v = Var::from_tensor(&m.sqr().unwrap()).unwrap();
            ops::adamw_step(&p, &Gradient::Dense(g.as_detached_tensor()), &m, &v, &step).unwrap();
            [p, m, v]
        };
        for (fused, plain) in run(DType::F32).iter().zip(run(DType::F64)) {
            assert_close(&format!("adamw {shape:?}"), fused, &plain, 1e-6, 0.0);
        }
    }
}

#[test]
fn adamw_moves_a_table_as_if_its_gradient_were_dense() {
    let step =
        ops::AdamwStep { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.1, t: 3, grad_scale: 0.5 };
    let tape = Tape::new(1);
    let table = tape.leaf(0, tensor(&[50, 7], 0.2, DType::F32));
    let y = ops::embedding(&table, &[3, 49, 3, 0]).unwrap();
    tape.backward([(&y, tensor(&[4, 7], 0.8, DType::F32))], &mut |_| Ok(())).unwrap();
    let sparse = tape.take_grad(0).unwrap();
    let dense = Gradient::Dense(sparse.clone().into_dense().unwrap());
    let run = |grad: &Gradient| {
        let [p, m] = [0.1, 0.3].map(|phase| var(&[50, 7], phase, DType::F32));
        let v = Var::from_tensor(&m.sqr().unwrap()).unwrap();
        ops::adamw_step(&p, grad, &m, &v, &step).unwrap();
        [p, m, v].map(|t| numbers(&t))
    };
    assert_eq!(run(&sparse), run(&dense), "bit for bit");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let segments = Segments::of_lengths([50, 77, 3, 61]);
    let run = || {
        let (rows, width) = (segments.rows(), 96);
        let shapes: [&[usize]; 4] = [&[rows, width], &[width, width], &[width], &[width]];
        let (y, grads) = on_tape(&shapes, DType::F32, |t| {
            let normed = ops::layer_norm(t[0], t[2], t[3], 1e-5)?;
            let x = ops::linear(&normed, t[1], t[2])?;
            let attended = Attention::within(&segments, 3, true).apply(&x, &normed, &x)?;
            ops::activated_linear_residual(&attended, Activation::Gelu, t[1], t[3], t[0])
        });
        let mut all = numbers(&y);
        grads.iter().for_each(|g| all.extend(numbers(g)));
        all
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let one = pool(1).install(run);
    for threads in [2, 3, 5] {
        assert_eq!(pool(threads).install(run), one, "{threads} threads");
    }
}

/// (rows, channels) as (items, channels, height, width).
fn planes(x: &Tensor, maps: Maps) -> Result<Tensor> {
    x.reshape((maps.items, maps.height, maps.width, ()))?.permute((0, 3, 1, 2))?.contiguous()
}

fn rows(x: &Tensor) -> Result<Tensor> {
    let channels = x.dim(1)?;
    x.permute((0, 2, 3, 1))?.contiguous()?.reshape(((), channels))
}

#[test]
fn convolutions_with_all_that_is_around_them() {
    // (items, height, width, in, out, kernel, stride, padding)
    let cases = [
        (1, 1, 1, 1, 1, 1, 1, 0),
        (2, 5, 7, 3, 4, 3, 1, 1),
        (3, 8, 6, 5, 7, 3, 2, 1),
        (2, 9, 9, 3, 6, 7, 2, 3),
        (2, 6, 6, 9, 10, 1, 1, 0),
        (2, 7, 5, 4, 3, 1, 2, 0),
        (1, 8, 8, 3, 5, 4, 4, 0),
    ];
    for (items, height, width, inner, outer, kernel, stride, padding) in cases {
        let maps = Maps { items, height, width };
        let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
        let out = items * side(height) * side(width);
        let x: &[usize] = &[maps.rows(), inner];
        let weight: &[usize] = &[outer, inner, kernel, kernel];
        let conv = |t: &[&Value], bias: bool, residual: bool, relu: bool| {
            let conv = Conv2d {
                weight: t[1],
                bias: bias.then(|| t[2]),
                residual: residual.then(|| t[3]),
                stride,
                padding,
                relu,
            };
            let (y, to) = conv.apply(t[0], maps)?;
            assert_eq!(to.rows(), out);
            Ok(y)
        };
        let twin = |t: &[&Tensor]| rows(&planes(t[0], maps)?.conv2d(t[1], padding, stride, 1, 1)?);
        compare("conv2d", &[x, weight], |t| conv(t, false, false, false), twin);
        let all: [&[usize]; 4] = [x, weight, &[outer], &[out, outer]];
        compare(
            "conv2d with all",
            &all,
            |t| conv(t, true, true, true),
            |t| (twin(t)?.broadcast_add(t[2])? + t[3])?.relu(),
        );
    }
}

#[test]
fn pooling_and_depthwise_kernels() {
    for (items, height, width, channels) in [(1, 2, 2, 1), (2, 5, 7, 3), (3, 8, 6, 17)] {
        let maps = Maps { items, height, width };
        let x: &[usize] = &[maps.rows(), channels];
        let pooled = |kernel, stride, padding| {
            compare(
                &format!("max_pool {kernel} {stride} {padding}"),
                &[x],
                |t| Ok(ops::max_pool(t[0], maps, kernel, stride, padding)?.0),
                |t| {
                    // Far below every number: candle pads with zeros.
                    let low = (planes(t[0], maps)? + 100.0)?;
                    let padded = low.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding)?;
                    let (_, _, h, w) = padded.dims4()?;
                    let side = |n: usize| (n - kernel) / stride + 1;
                    let mut windows = Vec::new();
                    for place in 0..kernel * kernel {
                        let (dy, dx) = (place / kernel, place % kernel);
                        let pick = |from: usize, n: usize| {
                            let index: Vec<u32> = (0..side(n)).map(|i| (from + i * stride) as u32).collect();
                            Tensor::new(index, &Device::Cpu)
                        };
                        windows.push(padded.index_select(&pick(dy, h)?, 2)?.index_select(&pick(dx, w)?, 3)?);
                    }
                    rows(&(Tensor::stack(&windows, 0)?.max(0)? - 100.0)?)
                },
            );
        };
        if channels == 1 {
            pooled(2, 1, 0);
        }
        compare(
            "avg_pool",
            &[x],
            |t| Ok(ops::avg_pool(t[0], maps, 2)?.0),
            |t| {
                // Only what windows see: candle's own gradient goes wrong on the rest.
                let seen = planes(t[0], maps)?.narrow(2, 0, height / 2 * 2)?.narrow(3, 0, width / 2 * 2)?;
                rows(&seen.contiguous()?.avg_pool2d(2)?)
            },
        );
        let each = Segments::even(items, height * width);
        compare(
            "mean_rows",
            &[x],
            |t| ops::mean_rows(t[0], &each),
            |t| t[0].reshape((items, height * width, channels))?.mean(1),
        );
        for kernel in [1, 3, 7] {
            let weight: &[usize] = &[channels, 1, kernel, kernel];
            compare(
                "depthwise_conv",
                &[x, weight, &[channels]],
                |t| ops::depthwise_conv(t[0], maps, t[1], t[2]),
                |t| {
                    // One channel after the other: candle's grouped convolution has no gradient to trust here.
                    let x = planes(t[0], maps)?;
                    let one = |c: usize| {
                        x.narrow(1, c, 1)?.contiguous()?.conv2d(
                            &t[1].narrow(0, c, 1)?.contiguous()?,
                            kernel / 2,
                            1,
                            1,
                            1,
                        )
                    };
                    let all = (0..channels).map(one).collect::<Result<Vec<_>>>()?;
                    rows(&Tensor::cat(&all, 1)?)?.broadcast_add(t[2])
                },
            );
        }
        compare(
            "response_norm",
            &[x, &[channels], &[channels]],
            |t| ops::response_norm(t[0], maps, t[1], t[2]),
            |t| {
                let x = t[0].reshape((items, height * width, channels))?;
                let norm = x.sqr()?.sum_keepdim(1)?.sqrt()?;
                let share = norm.broadcast_div(&(norm.mean_keepdim(2)? + 1e-6)?)?;
                let y = (x.broadcast_mul(&share.broadcast_mul(t[1])?)?.broadcast_add(t[2])? + &x)?;
                y.reshape(t[0].dims())
            },
        );
    }
}

/// The largest number of each window, by hand, and where its gradient goes.
#[test]
fn max_pool_with_a_margin() {
    let maps = Maps { items: 1, height: 3, width: 3 };
    let x = [-1f32, -5.0, -2.0, -3.0, -9.0, -4.0, -6.0, -8.0, -7.0];
    for dtype in [DType::F32, DType::F64] {
        let tape = Tape::new(1);
        let leaf =
            tape.leaf(0, Tensor::new(&x, &Device::Cpu).unwrap().reshape((9, 1)).unwrap().to_dtype(dtype).unwrap());
        let (y, to) = ops::max_pool(&leaf, maps, 3, 2, 1).unwrap();
        assert_eq!((to.height, to.width), (2, 2));
        assert_eq!(numbers(y.tensor()), [-1.0, -2.0, -3.0, -4.0]);
        let weights = Tensor::new(&[1f32, 2.0, 3.0, 4.0], &Device::Cpu).unwrap().reshape((4, 1)).unwrap();
        tape.backward([(&y, weights.to_dtype(dtype).unwrap())], &mut |_| Ok(())).unwrap();
        let grad = tape.take_grad(0).unwrap().into_dense().unwrap();
        assert_eq!(numbers(&grad), [1.0, 0.0, 2.0, 3.0, 0.0, 4.0, 0.0, 0.0, 0.0], "{dtype:?}");
    }
}

#[test]
fn scales_sums_and_rows() {
    for (count, width) in SHAPES {
        let x: &[usize] = &[count, width];
        let column = |t: &Tensor| t.reshape((count, 1));
        compare("scale_rows", &[x, &[count]], |t| ops::scale_rows(t[0], t[1]), |t| t[0].broadcast_mul(&column(t[1])?));
        compare("add", &[x, x], |t| ops::add(t[0], t[1]), |t| t[0] + t[1]);
        compare("multiply", &[x, x], |t| ops::multiply(t[0], t[1]), |t| t[0] * t[1]);
        compare("concat_rows", &[x, x], |t| ops::concat_rows(t[0], t[1]), |t| Tensor::cat(&[t[0], t[1]], 0));
        let tokens: &[usize] = &[3, width];
        compare("prepend", &[tokens, x], |t| ops::prepend(t[0], t[1], 1), |t| Tensor::cat(&[t[0], t[1]], 0));
    }
    for (kind, twin) in [
        (Activation::Tanh, Tensor::tanh as fn(&Tensor) -> Result<Tensor>),
        (Activation::Relu, Tensor::relu as fn(&Tensor) -> Result<Tensor>),
        (Activation::Silu, Tensor::silu as fn(&Tensor) -> Result<Tensor>),
        (Activation::Sigmoid, candle_nn::ops::sigmoid as fn(&Tensor) -> Result<Tensor>),
        (Activation::Relu6, (|x| x.clamp(0.0, 6.0)) as fn(&Tensor) -> Result<Tensor>),
    ] {
        compare(&format!("{kind:?}"), &[&[17, 31]], |t| kind.apply(t[0]), |t| twin(t[0]));
    }
}

#[test]
fn rotary_positions() {
    for (heads, head_width, theta) in [(1, 2, 10_000.0), (3, 6, 160_000.0), (2, 16, 10_000.0)] {
        let positions: Vec<u32> = [0, 1, 2, 3, 0, 1, 77].into();
        let rotary = Rotary { heads, theta };
        compare(
            &format!("{rotary:?}"),
            &[&[positions.len(), heads * head_width]],
            |t| rotary.apply(t[0], &positions),
            |t| reference::rotary(t[0], &rotary, &positions),
        );
    }
    let x = Value::from(tensor(&[2, 6], 0.1, DType::F32));
    // Place 0 turns nothing, and no turn changes a length.
    let y = Rotary { heads: 1, theta: 10_000.0 }.apply(&x, &[0, 5]).unwrap();
    let (before, after) = (numbers(x.tensor()), numbers(y.tensor()));
    assert_eq!(before[..6], after[..6]);
    let length = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
    assert!((length(&before[6..]) - length(&after[6..])).abs() < 1e-5 && before[6..] != after[6..]);
    let odd = Rotary { heads: 2, theta: 10_000.0 }.apply(&x, &[0, 1]).unwrap_err().to_string();
    assert!(odd.contains("rotary: 2 rows of 6 for 2 places and 2 heads"), "{odd}");
}

#[test]
fn attention_with_a_bias_by_position_and_a_mask() {
    for (items, places, heads, head_width, masked) in
        [(1, 1, 1, 2, false), (2, 4, 2, 3, true), (9, 5, 3, 4, false), (6, 9, 1, 7, true)]
    {
        let entries = 7;
        let index: Vec<u32> = (0..places * places).map(|i| (i * 5 % entries) as u32).collect();
        let windows = if items % 2 == 0 { 2 } else { 1 };
        let hidden = |i: usize| if i % 3 == 1 && !i.is_multiple_of(places + 1) { -100.0f32 } else { 0.0 };
        let mask: Option<Vec<f32>> = masked.then(|| (0..windows * places * places).map(hidden).collect());
        let form = Attention::within(&Segments::even(items, places), heads, false);
        let x: &[usize] = &[items * places, heads * head_width];
        compare(
            &format!("{items} × {places}"),
            &[x, x, x, &[entries, heads]],
            |t| {
                let bias = PositionBias {
                    table: t[3].clone(),
                    index: index.as_slice().into(),
                    mask: mask.as_deref().map(Into::into),
                };
                form.apply_biased(t[0], t[1], t[2], Some(&bias))
            },
            |t| {
                // Item by item and head by head, by hand.
                let mut out = Vec::new();
                for i in 0..items {
                    let part = |t: &Tensor, h: usize| {
                        t.narrow(0, i * places, places)?.narrow(1, h * head_width, head_width)?.contiguous()
                    };
                    let mut heads_out = Vec::new();
                    for h in 0..heads {
                        let scores = (part(t[0], h)?.matmul(&part(t[1], h)?.t()?)? * (head_width as f64).powf(-0.5))?;
                        let column = t[3].narrow(1, h, 1)?.flatten_all()?;
                        let bias = column.index_select(&Tensor::new(index.as_slice(), &Device::Cpu)?, 0)?;
                        let mut scores = (scores + bias.reshape((places, places))?)?;
                        if let Some(mask) = &mask {
                            let n = places * places;
                            let mask = &mask[i % windows * n..][..n];
                            scores = (scores
                                + Tensor::from_slice(mask, (places, places), &Device::Cpu)?.to_dtype(t[0].dtype())?)?;
                        }
                        heads_out.push(reference::softmax(&scores)?.matmul(&part(t[2], h)?)?);
                    }
                    out.push(Tensor::cat(&heads_out, 1)?);
                }
                Tensor::cat(&out, 0)
            },
        );
    }
}

/// Gradient × attention, with the attention written out in candle and differentiated there: within 1e-5.
#[test]
fn attention_leaves_its_relevance_where_it_is_watched() {
    let (heads, head_width, n) = (3, 4, 7);
    let [q, k, v, upstream] = [0.1, 0.7, 1.3, 2.9].map(|seed| tensor(&[n, heads * head_width], seed, DType::F32));
    let tape = Tape::new(1);
    tape.watch_attention();
    let form = Attention::within(&Segments::even(1, n), heads, true);
    let y = form.apply(&tape.leaf(0, q.clone()), &k.clone().into(), &v.clone().into()).unwrap();
    tape.backward([(&y, upstream.copy().unwrap())], &mut |_| Ok(())).unwrap();
    let found = tape.take_relevance();
    assert_eq!((found.len(), found[0].queries, found[0].keys), (1, n, n));
    let mut expected = vec![0f32; n * n];
    for h in 0..heads {
        let part = |x: &Tensor| x.narrow(1, h * head_width, head_width).unwrap().contiguous().unwrap();
        let scores = (part(&q).matmul(&part(&k).t().unwrap()).unwrap() / (head_width as f64).sqrt()).unwrap();
        let behind: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { -1e9 } else { 0.0 }).collect();
        let masked = (scores + Tensor::from_vec(behind, (n, n), &Device::Cpu).unwrap()).unwrap();
        let p = Var::from_tensor(&candle_nn::ops::softmax(&masked, 1).unwrap()).unwrap();
        let loss = (p.matmul(&part(&v)).unwrap() * part(&upstream)).unwrap().sum_all().unwrap();
        let slope = loss.backward().unwrap().remove(&p).unwrap();
        let positive = (p.as_tensor() * slope).unwrap().relu().unwrap();
        let values: Vec<f32> = positive.flatten_all().unwrap().to_vec1().unwrap();
        expected.iter_mut().zip(values).for_each(|(e, v)| *e += v / heads as f32);
    }
    assert!(expected.iter().any(|e| *e > 1e-3));
    found[0].values.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
    // Nothing is left where nobody watches.
    let quiet = Tape::new(1);
    let y = form.apply(&quiet.leaf(0, q), &k.into(), &v.into()).unwrap();
    quiet.backward([(&y, upstream)], &mut |_| Ok(())).unwrap();
    assert!(quiet.take_relevance().is_empty());
}

/// Values within 2e-6, gradients within 5e-5 of the largest (sums over 20,000 patches), over odd shapes, images with
/// one patch, and more sentences than pass at once.
#[test]
fn local_similarity_agrees_with_its_plain_twin() {
    let odd = [(vec![1], 1, 3), (vec![4, 1, 9], 7, 5), (vec![49; 3], 8, 16), (vec![2, 31, 3, 17], 21, 33)];
    for (lengths, sentences, width) in odd.into_iter().chain([(vec![40; 500], 20, 2)]) {
        let segments = Segments::of_lengths(lengths);
        for (temperature, unit_patches) in [(0.07, true), (0.5, true), (0.1, false), (1.0, false)] {
            let options = LocalSimilarity { temperature, unit_patches };
            let (patches, texts) =
                (var(&[segments.rows(), width], 0.3, DType::F32), var(&[sentences, width], 1.9, DType::F32));
            let run = |plain: bool| {
                let f = if plain { reference::local_similarity } else { ops::local_similarity };
                let found = f(&patches, &texts, &segments, &options).unwrap();
                let upstream = tensor(&[segments.items(), sentences], 0.9, DType::F32);
                let grads = (&found * upstream).unwrap().sum_all().unwrap().backward().unwrap();
                let of = |v: &Var| numbers(grads.get(v).unwrap());
                [numbers(&found), of(&patches), of(&texts)]
            };
            for (which, (ours, plain)) in run(false).iter().zip(&run(true)).enumerate() {
                let largest = plain.iter().fold(0.1f64, |m, v| m.max(v.abs()));
                let worst = ours.iter().zip(plain).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
                let limit = if which == 0 { 2e-6 } else { 5e-5 * largest };
                assert!(
                    worst <= limit,
                    "{} rows, {options:?}: {which} is off by {worst} of {largest}",
                    segments.rows()
                );
            }
        }
    }
}

#[test]
fn local_similarity_is_finite_at_zero_and_refuses_what_does_not_fit() {
    let options = LocalSimilarity { temperature: 0.1, unit_patches: true };
    let zero = Var::from_tensor(&Tensor::zeros((4, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let texts = tensor(&[2, 3], 0.1, DType::F32);
    let found = ops::local_similarity(&zero, &texts, &Segments::even(2, 2), &options).unwrap();
    let grads = found.sum_all().unwrap().backward().unwrap();
    assert!(numbers(grads.get(&zero).unwrap()).iter().all(|g| g.is_finite()));
    assert!(ops::local_similarity(&zero, &texts, &Segments::even(2, 3), &options).is_err());
    assert!(ops::local_similarity(&zero, &texts, &Segments::of_lengths([4, 0]), &options).is_err());
}
