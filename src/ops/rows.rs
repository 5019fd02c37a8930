//! Looking up, adding and choosing rows: embeddings, positions, pooled tokens.

use candle_core::{DType, Result, Tensor, bail};
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;
use super::cuda;
use super::gradient::{Gradient, RowGradient};
use super::profile::{self, Part};
use super::reference;
use super::tape::Value;

/// Row `rows[i]` of `table` as row i. table: (count, width) → (rows, width). Rows that were not looked up cost nothing
/// in the backward pass.
///
/// # Errors
/// A row outside the table.
pub fn embedding(table: &Value, rows: &[u32]) -> Result<Value> {
    let _timed = profile::enter(Part::Embedding);
    let y = looked_up(table.tensor(), rows, None)?;
    let (kept, rows) = (table.clone(), rows.to_vec());
    Ok(Value::record(y, &[table], move |grad| add_rows_grad(&kept, &rows, &grad)))
}

/// `x` plus row `rows[i]` of `table` in row i. x: (rows, width), table: (count, width).
///
/// # Errors
/// Shapes that do not fit, a row outside the table.
pub fn add_embedding(x: &Value, table: &Value, rows: &[u32]) -> Result<Value> {
    let _timed = profile::enter(Part::Embedding);
    let x = &x.widened()?;
    if x.tensor().dims() != [rows.len(), table.tensor().dim(1)?] {
        bail!("add_embedding: {:?} and {} rows of {:?}", x.tensor().dims(), rows.len(), table.tensor().dims());
    }
    let y = looked_up(table.tensor(), rows, Some(x.tensor()))?;
    let inputs = [x, table];
    let (x, table, rows) = (x.clone(), table.clone(), rows.to_vec());
    Ok(Value::record(y, &inputs, move |grad| {
        add_rows_grad(&table, &rows, &grad)?;
        x.add_grad(grad)
    }))
}

/// Rows of `x` in the order of `rows`. x: (count, width) → (rows, width).
///
/// # Errors
/// A row outside `x`.
pub fn select_rows(x: &Value, rows: &[u32]) -> Result<Value> {
    let _timed = profile::enter(Part::Embedding);
    let y = looked_up(x.tensor(), rows, None)?;
    let (kept, rows) = (x.clone(), rows.to_vec());
    Ok(Value::record(y, &[x], move |grad| {
        if !kept.wants_grad() {
            return Ok(());
        }
        kept.update_grad(|before| {
            let before = match before {
                Some(before) => cpu::widened(before.into_dense()?)?,
                None => zero_grad(kept.tensor())?,
            };
            add_to_rows(before, &rows, &grad).map(Gradient::Dense)
        })
    }))
}

/// The rows of `tokens`, (k, width) or one (width), before the rows of each of `items` items of x: (items · n, width) →
/// (items · (k + n), width).
///
/// # Errors
/// Shapes that do not fit.
pub fn prepend(tokens: &Value, x: &Value, items: usize) -> Result<Value> {
    let _timed = profile::enter(Part::Embedding);
    let (rows, width) = x.tensor().dims2()?;
    if items == 0 || !rows.is_multiple_of(items) || !tokens.tensor().elem_count().is_multiple_of(width) {
        bail!("prepend: {:?} before {rows} rows of {items} items", tokens.tensor().dims());
    }
    let (k, n) = (tokens.tensor().elem_count() / width, rows / items);
    let (tokens, x) = (&tokens.widened()?, &x.widened()?);
    let first = tokens.tensor().reshape((1, k, width))?.broadcast_as((items, k, width))?.contiguous()?;
    let y = Tensor::cat(&[first, x.tensor().reshape((items, n, width))?], 1)?.reshape((items * (k + n), width))?;
    let inputs = [tokens, x];
    let (tokens, x) = (tokens.clone(), x.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let grad = grad.reshape((items, k + n, width))?;
        if tokens.wants_grad() {
            tokens.add_grad(grad.narrow(1, 0, k)?.contiguous()?.sum(0)?.reshape(tokens.tensor().shape())?)?;
        }
        if x.wants_grad() {
            x.add_grad(grad.narrow(1, k, n)?.contiguous()?.reshape((items * n, width))?)?;
        }
        Ok(())
    }))
}

/// The rows of `a`, then those of `b`, both of one width.
///
/// # Errors
/// Widths that differ.
pub fn concat_rows(a: &Value, b: &Value) -> Result<Value> {
    let _timed = profile::enter(Part::Embedding);
    let same = a.tensor().dtype() == b.tensor().dtype();
    let (a, b) = if same { (a, b) } else { (&a.widened()?, &b.widened()?) };
    let y = Tensor::cat(&[a.tensor(), b.tensor()], 0)?;
    let inputs = [a, b];
    let (a, b) = (a.clone(), b.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let (first, rest) = (a.tensor().dim(0)?, b.tensor().dim(0)?);
        for (value, start, rows) in [(&a, 0, first), (&b, first, rest)] {
            if value.wants_grad() {
                // A copy: gradients are changed in place, and must not share storage.
                value.add_grad(grad.narrow(0, start, rows)?.copy()?)?;
            }
        }
        Ok(())
    }))
}

/// Gradients of what is kept in bf16 are added up in f32.
fn zero_grad(x: &Tensor) -> Result<Tensor> {
    let dtype = if x.dtype() == DType::BF16 { DType::F32 } else { x.dtype() };
    Tensor::zeros(x.shape(), dtype, x.device())
}

/// Row `rows[i]` of `table` as row i, plus row i of `addend`, which fits.
fn looked_up(table: &Tensor, rows: &[u32], addend: Option<&Tensor>) -> Result<Tensor> {
    checked(table, rows)?;
    let plain = |t: &Tensor| cpu::has_kernels(t) && t.is_contiguous();
    let width = table.dim(1)?;
    if !plain(table) || !addend.is_none_or(plain) || width == 0 {
        let y = reference::select_rows(table, rows)?;
        return addend.map_or(Ok(y.clone()), |addend| addend + y);
    }
    let (numbers, addend) = (cpu::read(table)?, addend.map(cpu::read).transpose()?);
    let mut y = overwritten(rows.len() * width);
    let tasks = y.par_chunks_mut(width * cpu::ROWS_PER_TASK).zip(rows.par_chunks(cpu::ROWS_PER_TASK));
    tasks.enumerate().for_each(|(i, (y, rows))| {
        let starts = (i * cpu::ROWS_PER_TASK * width..).step_by(width);
        for ((y, &row), start) in y.chunks_exact_mut(width).zip(rows).zip(starts) {
            let from = &numbers[row as usize * width..][..width];
            match &addend {
                Some(addend) => y.iter_mut().zip(from).zip(&addend[start..]).for_each(|((y, f), a)| *y = a + f),
                None => y.copy_from_slice(from),
            }
        }
    });
    Tensor::from_vec(y, (rows.len(), width), table.device())
}

fn checked(table: &Tensor, rows: &[u32]) -> Result<()> {
    let count = table.dims2()?.0;
    match rows.iter().find(|&&row| row as usize >= count) {
        Some(row) => bail!("row {row} of a table of {count}"),
        None => Ok(()),
    }
}

/// `sum` with row i of `grad` added to its row `rows[i]`. In place where there are kernels: most rows stay as they are,
/// and a copy would cost more than the sum. The caller must hold no other tensor on the storage of `sum`.
fn add_to_rows(sum: Tensor, rows: &[u32], grad: &Tensor) -> Result<Tensor> {
    if cuda::has_kernels(&sum) && sum.is_contiguous() {
        cuda::add_rows(&sum, rows, grad)?;
        return Ok(sum);
    }
    if !cpu::has_kernels(&sum) || !sum.is_contiguous() {
        let rows = Tensor::from_slice(rows, rows.len(), grad.device())?;
        return sum.index_add(&rows, grad, 0);
    }
    let width = sum.dim(1)?;
    let grad = grad.contiguous()?;
    let addend = cpu::read(&grad)?;
    cpu::write(&sum, |sum| {
        for (&row, addend) in rows.iter().zip(addend.chunks_exact(width.max(1))) {
            sum[row as usize * width..][..width].iter_mut().zip(addend).for_each(|(s, a)| *s += a);
        }
    })?;
    Ok(sum)
}

fn add_rows_grad(table: &Value, rows: &[u32], grad: &Tensor) -> Result<()> {
    if !table.wants_grad() {
        return Ok(());
    }
    let shape = table.tensor().dims2()?;
    if !cpu::has_kernels(grad) {
        return table.update_grad(|before| {
            let sum = before.map_or_else(|| table.tensor().zeros_like(), Gradient::into_dense)?;
            add_to_rows(sum, rows, grad).map(Gradient::Dense)
        });
    }
    let grads = cpu::read(grad)?;
    table.update_grad(|before| match before {
        Some(Gradient::Rows(mut sum)) => {
            sum.add(rows, &grads);
            Ok(Gradient::Rows(sum))
        }
        before => {
            let mut sum = RowGradient::zero(shape, grad.device());
            sum.add(rows, &grads);
            match before {
                Some(dense) => dense.plus(Gradient::Rows(sum).into_dense()?),
                None => Ok(Gradient::Rows(sum)),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn rows_are_added_in_place_and_as_index_add_does() {
        let numbers: Vec<f32> = (0..12).map(|i| i as f32 * 0.37).collect();
        let sum = Tensor::from_vec(numbers, (4, 3), &Device::Cpu).unwrap();
        let grad = Tensor::from_vec((0..9).map(|i| 0.1 + i as f32).collect(), (3, 3), &Device::Cpu).unwrap();
        let rows = Tensor::new(&[2u32, 0, 2], &Device::Cpu).unwrap();
        let expected = sum.index_add(&rows, &grad, 0).unwrap().to_vec2::<f32>().unwrap();
        let same_storage = sum.clone();
        let after = add_to_rows(sum, &[2, 0, 2], &grad).unwrap();
        assert_eq!(after.to_vec2::<f32>().unwrap(), expected);
        assert_eq!(same_storage.to_vec2::<f32>().unwrap(), expected, "no copy was made");
    }
}
