//! Fused kernels for NVIDIA's GPUs, as `ops` has them for the CPU. Each takes and gives contiguous f32 tensors, or
//! gives bf16 where products alone read it; other types and shapes go through the composed twins. build.rs compiles
//! kernels.cu with the compiler that candle's CUDA feature needs anyway.

mod attention;
mod contrastive;
mod copies;
mod device;
#[cfg(test)]
mod emulator;
mod launch;
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod libraries;
mod linear;
mod rows;
mod tensor_cores;

use candle_core::{D, DType, Result, Tensor, Var};

use super::spec::{Activation, Factors};
use super::tape::Value;
use launch::{Arg, THREADS, launch, over};

pub(super) use attention::{attention, fits};
pub(super) use contrastive::contrastive;
pub use copies::{Uploaded, Uploader};
pub(super) use device::check_convolutions;
pub use device::{GpuMemory, gpu_count, gpu_memory, open_gpu};
pub(super) use linear::{column_sums, finish, squares};
pub(super) use rows::add_rows;
pub use rows::pixels;
pub use tensor_cores::use_tensor_cores;
pub(super) use tensor_cores::uses_tensor_cores;

/// Whether the kernels can take this tensor.
pub(super) fn has_kernels(x: &Tensor) -> bool {
    cfg!(feature = "cuda") && x.device().is_cuda() && x.dtype() == DType::F32
}

/// Memory for what a kernel writes from end to end.
fn fresh(like: &Tensor, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    fresh_of(DType::F32, like, shape)
}

/// [`fresh`] for numbers in f32 or bf16.
#[allow(unsafe_code)]
fn fresh_of(numbers: DType, like: &Tensor, shape: impl Into<candle_core::Shape>) -> Result<Tensor> {
    if !like.device().is_cuda() {
        return Tensor::zeros(shape, numbers, like.device());
    }
    // SAFETY: f32 and bf16 of any bits are numbers, and nobody looks before the kernel has written.
    unsafe { Tensor::empty(shape, numbers, like.device()) }
}

/// A kernel for an output in `numbers`.
fn kernel_for(numbers: DType, wide: &'static str, narrow: &'static str) -> &'static str {
    if numbers == DType::BF16 { narrow } else { wide }
}

/// [`super::layer_norm`], with its output in `numbers`: f32, or bf16 for products alone.
pub(super) fn layer_norm(x: &Value, weight: &Value, bias: &Value, eps: f64, numbers: DType) -> Result<Value> {
    let inputs = [x, weight, bias];
    let (xs, w, b) = (x.tensor().contiguous()?, weight.tensor().contiguous()?, bias.tensor().contiguous()?);
    let width = xs.dim(D::Minus1)?;
    let rows = xs.elem_count() / width;
    let (y, stats) = (fresh_of(numbers, &xs, xs.shape())?, fresh(&xs, (rows, 2))?);
    let args = [&xs, &w, &b, &y, &stats].map(Arg::Tensor);
    let kernel = kernel_for(numbers, "layer_norm", "layer_norm_bf16");
    launch(kernel, (rows, 1, 1), &[&args[..], &[Arg::Int(width), Arg::Float(eps)]].concat())?;
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let grad = grad.contiguous()?;
        if x.wants_grad() {
            let dx = fresh(&xs, xs.shape())?;
            let args = [&xs, &w, &stats, &grad, &dx].map(Arg::Tensor);
            launch("layer_norm_dx", (rows, 1, 1), &[&args[..], &[Arg::Int(width)]].concat())?;
            x.add_grad(dx)?;
        }
        if weight.wants_grad() || bias.wants_grad() {
            // Enough blocks to fill a GPU; each sums its rows in order.
            let slabs = rows.div_ceil(64).clamp(1, 128);
            let (partial, sums) = (fresh(&xs, (slabs, 2, width))?, fresh(&xs, (2, width))?);
            let args = [&xs, &stats, &grad, &partial].map(Arg::Tensor);
            let grid = (width.div_ceil(THREADS), slabs, 1);
            launch("layer_norm_dw", grid, &[&args[..], &[Arg::Int(rows), Arg::Int(width)]].concat())?;
            let args = [Arg::Tensor(&partial), Arg::Tensor(&sums), Arg::Int(slabs), Arg::Count(2 * width)];
            launch("sum_slabs", over(2 * width), &args)?;
            for (value, row) in [(&weight, 0), (&bias, 1)] {
                if value.wants_grad() {
                    value.add_grad(sums.narrow(0, row, 1)?.reshape(width)?.copy()?)?;
                }
            }
        }
        Ok(())
    }))
}

/// The kernel's number of an activation; `None` for those that it does not have.
pub(super) fn activation_number(kind: Activation) -> Option<usize> {
    let all = [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh];
    all.iter().position(|known| *known == kind)
}

/// [`Activation::apply`] of the activation of this number, with its output in `numbers`: f32, or bf16 for products
/// alone.
pub(super) fn activation(x: &Value, kind: usize, numbers: DType) -> Result<Value> {
    let xs = x.tensor().contiguous()?;
    let (count, y) = (xs.elem_count(), fresh_of(numbers, &xs, xs.shape())?);
    launch(
        kernel_for(numbers, "activation", "activation_bf16"),
        over(count),
        &[Arg::Tensor(&xs), Arg::Tensor(&y), Arg::Count(count), Arg::Int(kind)],
    )?;
    let inputs = [x];
    let x = x.clone();
    Ok(Value::record(y, &inputs, move |grad| {
        let (grad, dx) = (grad.contiguous()?, fresh(&xs, xs.shape())?);
        let args = [&xs, &grad, &dx].map(Arg::Tensor);
        launch("activation_dx", over(count), &[&args[..], &[Arg::Count(count), Arg::Int(kind)]].concat())?;
        x.add_grad(dx)
    }))
}

/// [`super::adamw_step`] with a dense gradient.
pub(super) fn adamw(param: &Var, grad: &Tensor, m: &Var, v: &Var, factors: &Factors) -> Result<()> {
    let (count, grad) = (param.elem_count(), grad.contiguous()?);
    let tensors = [param.as_tensor(), m.as_tensor(), v.as_tensor(), &grad].map(Arg::Tensor);
    let factors = factors.in_order().map(|factor| Arg::Float(f64::from(factor)));
    launch("adamw", over(count), &[&tensors[..], &[Arg::Count(count)], &factors[..]].concat())
}

#[cfg(test)]
mod tests {
    //! Kernels, run by the emulator, against their plain twins. On machines without a GPU this is all that they are
    //! tested by.
    use candle_core::{Device, Tensor, Var};
    use rand::RngExt;

    use super::attention::{IN_BF16, attention_by};
    use super::*;
    use crate::ops::cpu;
    use crate::ops::segments::Segments;
    use crate::ops::skipped::skipped;
    use crate::ops::spec::Attention;
    use crate::ops::spec::Contrastive;
    use crate::ops::tape::Tape;
    use crate::ops::{AdamwStep, adamw_step, gradient::Gradient, reference};
    use crate::seed::{Purpose, stream};

    fn random(shape: &[usize], number: u64) -> Tensor {
        let mut rng = stream(0, Purpose::Augment, number);
        let numbers = (0..shape.iter().product()).map(|_| 2.0 * rng.random::<f32>() - 1.0).collect::<Vec<_>>();
        Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
    }

    fn is_there() -> bool {
        let there = emulator::is_there();
        if !there {
            skipped("no g++ to build the emulator");
        }
        there
    }

    /// Within `tolerance` of the largest number.
    fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f32) {
        assert_eq!(got.dims(), expected.dims(), "{what}");
        let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let (got, expected) = (numbers(got), numbers(expected));
        let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest > 0.0, "{what}: nothing to compare");
        for (i, (a, b)) in got.iter().zip(&expected).enumerate() {
            assert!((a - b).abs() <= tolerance * largest, "{what}: number {i} is {a}, expected {b}");
        }
    }

    /// Output and gradients of `kernel`, on a tape, against those of `twin`, by candle.
    fn assert_like_twin(
        what: &str,
        inputs: &[Tensor],
        kernel: impl Fn(&[&Value]) -> Result<Value>,
        twin: impl Fn(&[&Tensor]) -> Result<Tensor>,
    ) {
        let tape = Tape::new(inputs.len());
        let values: Vec<Value> = inputs.iter().enumerate().map(|(i, x)| tape.leaf(i, x.clone())).collect();
        let y = kernel(&values.iter().collect::<Vec<_>>()).unwrap();
        let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(x).unwrap()).collect();
        let expected = twin(&vars.iter().map(|v| v.as_tensor()).collect::<Vec<_>>()).unwrap();
        assert_close(what, y.tensor(), &expected, 1e-5);
        let upstream = random(expected.dims(), 99);
        tape.backward([(&y, upstream.clone())], &mut |_| Ok(())).unwrap();
        let grads = (expected * upstream).unwrap().sum_all().unwrap().backward().unwrap();
        for (i, var) in vars.iter().enumerate() {
            let got = tape.take_grad(i).unwrap_or_else(|| panic!("{what}: input {i} gets no gradient"));
            assert_close(&format!("{what}: gradient {i}"), &got.into_dense().unwrap(), grads.get(var).unwrap(), 2e-5);
        }
    }

    #[test]
    fn layer_norm_is_its_twin() {
        if !is_there() {
            return;
        }
        for (rows, width) in [(3, 5), (70, 130), (1, 128)] {
            let inputs = [random(&[rows, width], 1), random(&[width], 2), random(&[width], 3)];
            assert_like_twin(
                &format!("layer norm {rows} × {width}"),
                &inputs,
                |v| layer_norm(v[0], v[1], v[2], 1e-5, DType::F32),
                |t| reference::layer_norm(t[0], t[1], t[2], 1e-5),
            );
        }
    }

    /// What products in bf16 alone read is the same number, rounded; gradients do not know of it.
    #[test]
    fn outputs_in_bf16_are_rounded_and_their_gradients_are_those_of_f32() {
        if !is_there() {
            return;
        }
        let made = |numbers, make: &dyn Fn(&[Value], DType) -> Result<Value>| {
            let tape = Tape::new(3);
            let inputs = [random(&[7, 37], 4), random(&[37], 5), random(&[37], 6)];
            let values: Vec<Value> = inputs.into_iter().enumerate().map(|(i, x)| tape.leaf(i, x)).collect();
            let y = make(&values, numbers).unwrap();
            tape.backward([(&y, random(&[7, 37], 7))], &mut |_| Ok(())).unwrap();
            let grads = [0, 1, 2].map(|i| tape.take_grad(i).map(|grad| grad.into_dense().unwrap()));
            (y.tensor().clone(), grads)
        };
        let norm = |v: &[Value], numbers| layer_norm(&v[0], &v[1], &v[2], 1e-5, numbers);
        for kind in 0..=5 {
            let active = |v: &[Value], numbers| activation(&v[0], kind, numbers);
            let make: &dyn Fn(&[Value], DType) -> Result<Value> = if kind == 5 { &norm } else { &active };
            let ((wide, expected), (narrow, got)) = (made(DType::F32, make), made(DType::BF16, make));
            assert_eq!(narrow.dtype(), DType::BF16);
            let numbers = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<half::bf16>().unwrap();
            assert_eq!(numbers(&narrow), numbers(&wide.to_dtype(DType::BF16).unwrap()), "{kind}");
            for (got, expected) in got.iter().zip(&expected) {
                assert_eq!(got.is_some(), expected.is_some());
                let (Some(got), Some(expected)) = (got, expected) else { continue };
                assert_close(&format!("{kind}: gradient"), got, expected, 0.0);
            }
        }
    }

    #[test]
    fn activations_are_their_twins() {
        if !is_there() {
            return;
        }
        let all = [Activation::QuickGelu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh];
        for kind in all {
            let x = (random(&[7, 50], 4) * 4.0).unwrap();
            assert_like_twin(
                &format!("{kind:?}"),
                &[x],
                |v| activation(v[0], activation_number(kind).unwrap(), DType::F32),
                |t| reference::activation(t[0], kind),
            );
        }
    }

    #[test]
    fn adamw_is_that_of_the_cpu() {
        if !is_there() {
            return;
        }
        let step = AdamwStep { lr: 1e-2, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, t: 3, grad_scale: 0.5 };
        let start = || {
            [random(&[300], 5), random(&[300], 6), random(&[300], 7).sqr().unwrap()]
                .map(|t| Var::from_tensor(&t.copy().unwrap()).unwrap())
        };
        let grad = random(&[300], 8);
        let ([p, m, v], [p2, m2, v2]) = (start(), start());
        adamw(&p, &grad, &m, &v, &Factors::new(&step)).unwrap();
        adamw_step(&p2, &Gradient::Dense(grad), &m2, &v2, &step).unwrap();
        for (what, a, b) in [("p", p, p2), ("m", m, m2), ("v", v, v2)] {
            assert_close(what, a.as_tensor(), b.as_tensor(), 1e-6);
        }
    }

    #[test]
    fn what_stands_around_products_is_added() {
        if !is_there() {
            return;
        }
        for (rows, width) in [(1, 1), (3, 130), (7, 257)] {
            let (product, bias, residual) =
                (random(&[rows, width], 30), random(&[width], 31), random(&[rows, width], 32));
            let halves = product.to_dtype(DType::BF16).unwrap();
            let widened = halves.to_dtype(DType::F32).unwrap();
            let with_bias = product.broadcast_add(&bias).unwrap();
            for (what, got, expected) in [
                ("bias", finish(&product, Some(&bias), None), with_bias.clone()),
                ("residual", finish(&product, None, Some(&residual)), (&product + &residual).unwrap()),
                ("both", finish(&product, Some(&bias), Some(&residual)), (with_bias + &residual).unwrap()),
                ("bf16", finish(&halves, Some(&bias), None), widened.broadcast_add(&bias).unwrap()),
                ("bf16 alone", finish(&halves, None, None), widened),
            ] {
                assert_close(&format!("{what} {rows} × {width}"), &got.unwrap(), &expected, 0.0);
            }
        }
    }

    #[test]
    fn sums_over_rows_and_of_squares() {
        if !is_there() {
            return;
        }
        for (rows, width) in [(1, 1), (3, 130), (200, 7)] {
            let x = random(&[rows, width], 33);
            assert_close("column sums", &column_sums(&x).unwrap(), &x.sum(0).unwrap(), 1e-6);
        }
        let sum = |x: &Tensor| squares(x).unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).sum::<f64>();
        for count in [1, 127, 40_001] {
            let x = random(&[count], 34);
            let exact: f64 = x.to_vec1::<f32>().unwrap().iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((sum(&x) - exact).abs() <= 1e-13 * exact, "{count}: {} and {exact}", sum(&x));
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let x = Tensor::new(&[1.0, bad, 2.0], &Device::Cpu).unwrap();
            assert!(!squares(&x).unwrap().to_vec1::<f32>().unwrap()[0].is_finite(), "{bad}");
        }
    }

    #[test]
    fn rows_are_added_in_order() {
        if !is_there() {
            return;
        }
        for (count, width, rows) in [(4, 3, vec![2, 0, 2]), (9, 130, vec![8, 8, 1, 0, 8, 3, 1]), (1, 1, vec![0])] {
            let (sum, grad) = (random(&[count, width], 35), random(&[rows.len(), width], 36));
            let index = Tensor::new(rows.as_slice(), &Device::Cpu).unwrap();
            let expected = sum.index_add(&index, &grad, 0).unwrap();
            add_rows(&sum, &rows, &grad).unwrap();
            assert_close(&format!("{rows:?}"), &sum, &expected, 0.0);
        }
    }

    #[test]
    fn bytes_become_numbers_through_their_tables() {
        if !is_there() {
            return;
        }
        let tables = random(&[2, 3, 256], 37).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for channels in [1, 3] {
            let each = 150;
            let bytes: Vec<u8> = (0..2 * each * channels).map(|i| (i * 37 % 256) as u8).collect();
            let got = pixels(&bytes, &tables, (2, channels), &Device::Cpu).unwrap();
            assert_eq!(got.dims(), [2, 3, each]);
            let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (i, number) in got.into_iter().enumerate() {
                let (image, colour, pixel) = (i / each / 3, i / each % 3, i % each);
                let byte = bytes[(image * each + pixel) * channels + if channels == 3 { colour } else { 0 }];
                assert_eq!(number, tables[(image * 3 + colour) * 256 + usize::from(byte)], "{channels}: {i}");
            }
        }
    }

    #[test]
    fn attention_is_its_twin() {
        if !is_there() {
            return;
        }
        let cases = [
            // Items of several lengths, across tiles; a causal text; one query an item, as BERT's pooler would ask.
            (vec![5, 33, 1], vec![5, 33, 1], 2, 8, false),
            (vec![40, 7], vec![40, 7], 2, 64, true),
            (vec![70], vec![70], 1, 20, true),
            (vec![1, 1], vec![35, 4], 3, 4, false),
            (vec![2, 3], vec![40, 3], 1, 16, true),
            // Tiles that the window leaves out.
            (vec![110, 3], vec![130, 3], 1, 4, false),
            (vec![110], vec![110], 1, 4, true),
        ];
        let windows = [None, Some(5), None, None, Some(2), Some(7), Some(3)];
        for ((queries, keys, heads, head_width, causal), window) in cases.into_iter().zip(windows) {
            let what = format!(
                "attention of {queries:?} to {keys:?}, {heads} heads of {head_width}, causal {causal}, \
                 window {window:?}"
            );
            let (queries, keys) = (Segments::of_lengths(queries), Segments::of_lengths(keys));
            let width = heads * head_width;
            let inputs = [
                random(&[queries.rows(), width], 10),
                random(&[keys.rows(), width], 11),
                random(&[keys.rows(), width], 12),
            ];
            let shape = Attention { heads, queries, keys, causal, window };
            assert!(fits(&shape, width));
            assert_like_twin(
                &what,
                &inputs,
                |v| attention(&shape, v[0], v[1], v[2]),
                |t| reference::attention(t[0], t[1], t[2], &shape, None),
            );
        }
        let wide = Attention::within(&Segments::even(1, 2), 1, false);
        assert!(!fits(&wide, 65), "wider heads go through the twin");
    }

    /// Of operands that bf16 has exactly, in f64: what is left is the rounding of probabilities and their slopes.
    #[test]
    fn attention_by_tensor_cores_is_its_twin() {
        if !is_there() {
            return;
        }
        let cases = [
            (vec![5, 70], vec![5, 70], 1, 20, false, Some(30)),
            (vec![66], vec![66], 2, 64, true, None),
            (vec![1, 2], vec![35, 4], 2, 7, true, None),
            // Tiles that the window leaves out.
            (vec![200], vec![200], 1, 7, false, Some(9)),
        ];
        for (queries, keys, heads, head_width, causal, window) in cases {
            let what = format!("attention of {queries:?} to {keys:?}, {heads} heads of {head_width}, causal {causal}");
            let (queries, keys) = (Segments::of_lengths(queries), Segments::of_lengths(keys));
            let (width, rows) = (heads * head_width, queries.rows());
            let operand = |rows: usize, number| cpu::rounded(&random(&[rows, width], number)).unwrap();
            let inputs = [operand(rows, 10), operand(keys.rows(), 11), operand(keys.rows(), 12)];
            let upstream = operand(rows, 13);
            let shape = Attention { heads, queries, keys, causal, window };
            let tape = Tape::new(3);
            let values: Vec<Value> = inputs.iter().enumerate().map(|(i, x)| tape.leaf(i, x.clone())).collect();
            let y = attention_by(IN_BF16, &shape, [&values[0], &values[1], &values[2]]).unwrap();
            tape.backward([(&y, upstream.clone())], &mut |_| Ok(())).unwrap();
            let exact = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
            let vars = inputs.each_ref().map(|x| Var::from_tensor(&exact(x)).unwrap());
            let expected = reference::attention(&vars[0], &vars[1], &vars[2], &shape, None).unwrap();
            let grads = (&expected * exact(&upstream)).unwrap().sum_all().unwrap().backward().unwrap();
            let all = vars.iter().enumerate().map(|(i, var)| {
                let ours = tape.take_grad(i).unwrap().into_dense().unwrap();
                (format!("{what}: gradient {i}"), ours, grads.get(var).unwrap().clone())
            });
            for (what, ours, exact) in std::iter::once((what.clone(), y.tensor().clone(), expected)).chain(all) {
                assert_close(&what, &ours, &exact.to_dtype(DType::F32).unwrap(), 6e-3);
                // Rounding to 8 bits is no smaller than this: products in f32 would be.
                let off = ((exact.to_dtype(DType::F32).unwrap() - &ours).unwrap().abs().unwrap()).max_all().unwrap();
                assert!(off.to_scalar::<f32>().unwrap() > 1e-5, "{what}: as exact as f32");
            }
        }
    }

    #[test]
    fn the_contrastive_loss_is_its_twin() {
        if !is_there() {
            return;
        }
        for (image_to_text, text_to_image, label_smoothing) in
            [(true, true, 0.1), (true, false, 0.0), (false, true, 0.3)]
        {
            let options = Contrastive { image_to_text, text_to_image, label_smoothing };
            let inputs = || {
                let all = [random(&[130, 9], 20), random(&[130, 9], 21), Tensor::new(3f32, &Device::Cpu).unwrap()];
                all.map(|t| Var::from_tensor(&t).unwrap())
            };
            let ([a, b, s], [a2, b2, s2]) = (inputs(), inputs());
            let got = contrastive(&a, &b, &s, &options).unwrap();
            let expected = reference::contrastive(&a2, &b2, &s2, &options).unwrap();
            assert_close("loss", &got.loss, &expected.loss, 1e-6);
            assert!((got.loss_hard - expected.loss_hard).abs() < 1e-5, "{} {}", got.loss_hard, expected.loss_hard);
            assert_eq!(got.accuracy, expected.accuracy);
            let (grads, expected) = (got.loss.backward().unwrap(), expected.loss.backward().unwrap());
            for (what, x, y) in [("image", &a, &a2), ("text", &b, &b2), ("scale", &s, &s2)] {
                assert_close(what, grads.get(x).unwrap(), expected.get(y).unwrap(), 2e-5);
            }
        }
    }
}
