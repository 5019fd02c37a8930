//! Looking up, adding and choosing rows: embeddings, positions, pooled tokens.

use candle_core::{Result, Tensor, bail};

use super::cpu;
use super::gradient::{Gradient, RowGradient};
use super::reference;
use super::tape::Value;

/// Row `rows[i]` of `table` as row i. table: (count, width) → (rows, width). Rows that were not looked up cost nothing in
/// the backward pass.
///
/// # Errors
/// A row outside the table.
pub fn embedding(table: &Value, rows: &[u32]) -> Result<Value> {
    let y = reference::select_rows(checked(table.tensor(), rows)?, rows)?;
    let (kept, rows) = (table.clone(), rows.to_vec());
    Ok(Value::record(y, &[table], move |grad| add_rows_grad(&kept, &rows, &grad)))
}

/// `x` plus row `rows[i]` of `table` in row i. x: (rows, width), table: (count, width).
///
/// # Errors
/// Shapes that do not fit, a row outside the table.
pub fn add_embedding(x: &Value, table: &Value, rows: &[u32]) -> Result<Value> {
    let y = (x.tensor() + reference::select_rows(checked(table.tensor(), rows)?, rows)?)?;
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
    let y = reference::select_rows(checked(x.tensor(), rows)?, rows)?;
    let (kept, rows) = (x.clone(), rows.to_vec());
    Ok(Value::record(y, &[x], move |grad| {
        if !kept.wants_grad() {
            return Ok(());
        }
        // In place where there is a gradient already: most rows stay as they are.
        let rows = Tensor::from_slice(&rows, rows.len(), grad.device())?;
        kept.update_grad(|before| {
            let before = match before {
                Some(before) => before.into_dense()?,
                None => kept.tensor().zeros_like()?,
            };
            before.index_add(&rows, &grad, 0).map(Gradient::Dense)
        })
    }))
}

/// The rows of `tokens`, (k, width) or one (width), before the rows of each of `items` items of x: (items · n, width) →
/// (items · (k + n), width).
///
/// # Errors
/// Shapes that do not fit.
pub fn prepend(tokens: &Value, x: &Value, items: usize) -> Result<Value> {
    let (rows, width) = x.tensor().dims2()?;
    if items == 0 || !rows.is_multiple_of(items) || !tokens.tensor().elem_count().is_multiple_of(width) {
        bail!("prepend: {:?} before {rows} rows of {items} items", tokens.tensor().dims());
    }
    let (k, n) = (tokens.tensor().elem_count() / width, rows / items);
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

fn checked<'a>(table: &'a Tensor, rows: &[u32]) -> Result<&'a Tensor> {
    let count = table.dims2()?.0;
    match rows.iter().find(|&&row| row as usize >= count) {
        Some(row) => bail!("row {row} of a table of {count}"),
        None => Ok(table),
    }
}

fn add_rows_grad(table: &Value, rows: &[u32], grad: &Tensor) -> Result<()> {
    if !table.wants_grad() {
        return Ok(());
    }
    let shape = table.tensor().dims2()?;
    if !cpu::has_kernels(grad) {
        let rows = Tensor::from_slice(rows, rows.len(), grad.device())?;
        return table.add_grad(table.tensor().zeros_like()?.index_add(&rows, grad, 0)?);
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
