//! Every operation of `ops` on a device, against the same in f64 on the CPU.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};

use super::shapes::{Case, cases};
use super::{Finding, OnFinding, Worst, difference, finding};
use crate::ops::{self, AdamwStep, Contrastive, Gradient, Tape, Value};

/// As a share of the largest number: sums in f32 in another order, and exponentials of another library.
const F32: f64 = 3e-5;

/// Values and gradients of every operation; f32 and, of those with products, bf16.
///
/// # Errors
/// Those of `on_finding`; what fails in an operation is a finding.
pub fn operations(device: &Device, on_finding: &mut OnFinding) -> Result<()> {
    for case in cases() {
        on_finding(of_case(&case, device, (DType::F32, F32)))?;
        if let Some(allowed) = case.in_bf16 {
            on_finding(of_case(&case, device, (DType::BF16, allowed)))?;
        }
    }
    for (batch, width) in [(2, 3), (7, 16), (130, 20), (257, 512)] {
        let what = format!("contrastive {batch} × {width}");
        on_finding(finding(what, "f32", F32, contrastive((batch, width), device)))?;
    }
    for count in [1, 300, 20_001] {
        on_finding(finding(format!("adamw {count}"), "f32", F32, adamw(count, device)))?;
        on_finding(finding(format!("squared_sum {count}"), "f32", F32, squared_sum(count, device)))?;
    }
    on_finding(finding("adamw of a table's rows".into(), "f32", F32, adamw_of_rows(device)))
}

/// With products in this type, within this difference.
fn of_case(case: &Case, device: &Device, (products, allowed): (DType, f64)) -> Finding {
    let precision = if products == DType::BF16 { "bf16" } else { "f32" };
    let worst = || {
        let ours = on_tape(case, device, DType::F32, products)?;
        let exact = on_tape(case, &Device::Cpu, DType::F64, DType::F64)?;
        let mut worst = Worst::new();
        for (i, (a, b)) in ours.iter().zip(&exact).enumerate() {
            let note = if i == 0 { "value".to_string() } else { format!("gradient of input {}", i - 1) };
            worst.see(&note, difference(a, b, 1e-3).with_context(|| note.clone())?);
        }
        Ok(worst)
    };
    finding(case.name.clone(), precision, allowed, worst())
}

/// A fixed sequence of numbers between −1 and 1.
fn wave(shape: &[usize], phase: f64, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    let number = |i: usize| ((i as f64 * 0.7 + phase).sin() * (i as f64 * 0.13 + phase).cos()) as f32;
    let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// The output, then the gradient of each input; the loss is a fixed weighting of outputs.
fn on_tape(case: &Case, device: &Device, dtype: DType, products: DType) -> Result<Vec<Tensor>> {
    let tape = Tape::new(case.shapes.len());
    let leaf = |(i, shape): (usize, &Vec<usize>)| {
        let numbers = wave(shape, i as f64 + 0.3, dtype, device)?;
        candle_core::Result::Ok(tape.leaf(i, numbers).with_products(products))
    };
    let leaves = case.shapes.iter().enumerate().map(leaf).collect::<candle_core::Result<Vec<Value>>>()?;
    let y = (case.run)(&leaves.iter().collect::<Vec<_>>())?;
    let upstream = wave(y.tensor().dims(), 5.1, y.tensor().dtype(), device)?;
    tape.backward([(&y, upstream)], &mut |_| Ok(()))?;
    let mut all = vec![y.tensor().clone()];
    for i in 0..case.shapes.len() {
        all.push(tape.take_grad(i).with_context(|| format!("input {i} gets no gradient"))?.into_dense()?);
    }
    Ok(all)
}

fn contrastive((batch, width): (usize, usize), device: &Device) -> Result<Worst> {
    let mut worst = Worst::new();
    for (image_to_text, text_to_image) in [(true, true), (true, false), (false, true)] {
        let options = Contrastive { label_smoothing: 0.1, image_to_text, text_to_image };
        let run = |dtype: DType, device: &Device| {
            let var = |phase| Var::from_tensor(&wave(&[batch, width], phase, dtype, device)?);
            let (image, text) = (var(0.3)?, var(1.7)?);
            let scale = Var::from_tensor(&Tensor::new(14f32, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)?;
            let output = ops::contrastive(&image, &text, &scale, &options)?;
            let grads = output.loss.backward()?;
            let mut all = vec![output.loss.detach()];
            for var in [&image, &text, &scale] {
                all.push(grads.get(var).context("a gradient is missing")?.clone());
            }
            anyhow::Ok(all)
        };
        let (ours, exact) = (run(DType::F32, device)?, run(DType::F64, &Device::Cpu)?);
        for (note, (a, b)) in ["loss", "image", "text", "scale"].iter().zip(ours.iter().zip(&exact)) {
            worst.see(note, difference(a, b, 1e-6)?);
        }
    }
    Ok(worst)
}

const STEP: AdamwStep =
    AdamwStep { lr: 0.01, beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.1, t: 3, grad_scale: 0.5 };

/// A weight of this shape and its moments after a step.
fn stepped(shape: &[usize], grad: &Gradient, dtype: DType, device: &Device) -> Result<[Tensor; 3]> {
    let var = |phase| Var::from_tensor(&wave(shape, phase, dtype, device)?);
    let (p, m) = (var(0.1)?, var(0.3)?);
    let v = Var::from_tensor(&m.sqr()?)?;
    ops::adamw_step(&p, grad, &m, &v, &STEP)?;
    Ok([p, m, v].map(|var| var.as_detached_tensor()))
}

fn see_all(ours: [Tensor; 3], expected: [Tensor; 3]) -> Result<Worst> {
    let mut worst = Worst::new();
    for (note, (a, b)) in ["weight", "m", "v"].iter().zip(ours.iter().zip(&expected)) {
        worst.see(note, difference(a, b, 0.0)?);
    }
    Ok(worst)
}

fn adamw(count: usize, device: &Device) -> Result<Worst> {
    let run = |dtype, device: &Device| {
        stepped(&[count], &Gradient::Dense(wave(&[count], 0.2, dtype, device)?), dtype, device)
    };
    see_all(run(DType::F32, device)?, run(DType::F64, &Device::Cpu)?)
}

/// A table of which some rows have a gradient, against one whose gradient is dense.
fn adamw_of_rows(device: &Device) -> Result<Worst> {
    let shape = [50, 7];
    let grad = |device: &Device, dtype| {
        let tape = Tape::new(1);
        let table = tape.leaf(0, wave(&shape, 0.2, dtype, device)?);
        let y = ops::embedding(&table, &[3, 49, 3, 0])?;
        tape.backward([(&y, wave(&[4, 7], 0.8, dtype, device)?)], &mut |_| Ok(()))?;
        tape.take_grad(0).context("the table gets no gradient")
    };
    let ours = stepped(&shape, &grad(device, DType::F32)?, DType::F32, device)?;
    let exact = Gradient::Dense(grad(&Device::Cpu, DType::F64)?.into_dense()?);
    see_all(ours, stepped(&shape, &exact, DType::F64, &Device::Cpu)?)
}

fn squared_sum(count: usize, device: &Device) -> Result<Worst> {
    let x = wave(&[count], 0.4, DType::F32, device)?;
    let exact: f64 = super::numbers(&x)?.iter().map(|v| v * v).sum();
    let mut worst = Worst::new();
    worst.see("sum", (ops::squared_sum(&x)? - exact).abs() / exact);
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Activation;

    fn all(device: &Device) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut keep = |finding| {
            found.push(finding);
            Ok(())
        };
        operations(device, &mut keep).unwrap();
        found
    }

    #[test]
    fn every_operation_of_the_cpu_passes() {
        let found = all(&Device::Cpu);
        let failed: Vec<_> = found.iter().filter(|f| !f.ok).collect();
        assert!(failed.is_empty(), "{failed:#?}");
        let in_bf16 = |of: &str| {
            found
                .iter()
                .filter(|f| f.precision == "bf16" && f.what.starts_with(of) && f.difference > Some(1e-4))
                .count()
        };
        assert!(in_bf16("linear") > 5 && in_bf16("conv2d") > 3, "what has products has them in bf16");
        for form in ["causal true", "causal false, window None", "window Some(3)", "with a bias"] {
            let of_form = |f: &&Finding| f.what.contains(form) && f.what.contains("heads of 64");
            let ran = found.iter().filter(|f| f.precision == "bf16" && f.difference > Some(1e-4)).filter(of_form);
            assert!(ran.count() > 0, "attention, {form}, in bf16");
        }
    }

    #[test]
    fn what_computes_something_else_fails() {
        // Another function in f32 than in f64.
        let run = |t: &[&Value]| {
            let kind = if t[0].tensor().dtype() == DType::F64 { Activation::Gelu } else { Activation::GeluTanh };
            kind.apply(t[0])
        };
        let wrong = Case { name: "wrong".into(), shapes: vec![vec![7, 50]], run: Box::new(run), in_bf16: None };
        let found = of_case(&wrong, &Device::Cpu, (DType::F32, F32));
        assert!(!found.ok && found.difference > Some(F32), "{found:?}");
        // And one that fails.
        let run = |t: &[&Value]| t[0].reshape(3);
        let fails = Case { name: "fails".into(), shapes: vec![vec![7, 50]], run: Box::new(run), in_bf16: None };
        let found = of_case(&fails, &Device::Cpu, (DType::F32, F32));
        assert!(!found.ok && found.difference.is_none() && !found.note.is_empty(), "{found:?}");
    }
}
