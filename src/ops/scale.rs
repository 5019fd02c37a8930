//! Small operations on weights, by which a scale behind a layer is taken into the layer itself: batch normalisation
//! with fixed statistics and layer scale cost no pass over activations.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;
use super::reference;
use super::simd::{self, vectorised};
use super::tape::{Value, composed};

/// Row i of `x` times `scale[i]`. x: (rows, …), scale: (rows).
///
/// # Errors
/// Shapes that do not fit.
pub fn scale_rows(x: &Value, scale: &Value) -> Result<Value> {
    let rows = x.tensor().dim(0)?;
    if scale.tensor().dims() != [rows] {
        bail!("scale_rows: {rows} rows and a scale of {:?}", scale.tensor().dims());
    }
    let (x, scale) = (&x.widened()?, &scale.widened()?);
    if !cpu::has_kernels(x.tensor()) {
        return composed(&[x, scale], |t| reference::scale_rows(t[0], t[1]));
    }
    let each = x.tensor().elem_count() / rows;
    let y = scaled(x.tensor(), scale.tensor(), each)?;
    let inputs = [x, scale];
    let (x, scale) = (x.clone(), scale.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        if scale.wants_grad() {
            let (xs, gs) = (cpu::read(x.tensor())?, cpu::read(&grad)?);
            let products = xs.par_chunks(each).zip(gs.par_chunks(each));
            let sums: Vec<f32> = products.map(|(x, g)| dot(x, g)).collect();
            scale.add_grad(Tensor::from_vec(sums, rows, grad.device())?)?;
        }
        if x.wants_grad() {
            x.add_grad(scaled(&grad, scale.tensor(), each)?)?;
        }
        Ok(())
    }))
}

vectorised! {
    fn dot(x: &[f32], y: &[f32]) -> f32 {
        let y = &y[..x.len()];
        simd::sum(x.len(), |i| x[i] * y[i])
    }
}

fn scaled(x: &Tensor, scale: &Tensor, each: usize) -> Result<Tensor> {
    let (xs, scale) = (cpu::read(x)?, cpu::read(scale)?);
    let mut y = overwritten(xs.len());
    let rows = y.par_chunks_mut(each).zip(xs.par_chunks(each)).zip(scale.par_iter());
    rows.for_each(|((y, x), scale)| y.iter_mut().zip(x).for_each(|(y, x)| *y = x * scale));
    Tensor::from_vec(y, x.dims(), x.device())
}

/// a + b, of one shape.
///
/// # Errors
/// Shapes that differ.
pub fn add(a: &Value, b: &Value) -> Result<Value> {
    let (a, b) = (&a.widened()?, &b.widened()?);
    let y = (a.tensor() + b.tensor())?;
    let inputs = [a, b];
    let (a, b) = (a.clone(), b.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        if a.wants_grad() {
            a.add_grad(grad.copy()?)?;
        }
        b.add_grad(grad)
    }))
}

/// a · b, number by number, of one shape.
///
/// # Errors
/// Shapes that differ.
pub fn multiply(a: &Value, b: &Value) -> Result<Value> {
    let (a, b) = (&a.widened()?, &b.widened()?);
    let y = (a.tensor() * b.tensor())?;
    let inputs = [a, b];
    let (a, b) = (a.clone(), b.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        if a.wants_grad() {
            a.add_grad((&grad * b.tensor())?)?;
        }
        if b.wants_grad() {
            b.add_grad((grad * a.tensor())?)?;
        }
        Ok(())
    }))
}
