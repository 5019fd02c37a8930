//! Rows added to rows of a table, and bytes of images turned into numbers.

use candle_core::{Device, Result, Tensor};

use super::fresh;
use super::launch::{Arg, THREADS, launch};

/// Adds row i of `grad` to row `rows[i]` of `sum`, in place: each row of the table by one block, its addends in the
/// order in which they stand, so that the sum is the same every time.
pub(in crate::ops) fn add_rows(sum: &Tensor, rows: &[u32], grad: &Tensor) -> Result<()> {
    let (grad, width) = (grad.contiguous()?, sum.dim(1)?);
    let mut order: Vec<u32> = (0..rows.len() as u32).collect();
    order.sort_by_key(|&i| rows[i as usize]);
    let (mut destinations, mut starts) = (Vec::new(), Vec::new());
    for (at, &i) in order.iter().enumerate() {
        if destinations.last() != Some(&rows[i as usize]) {
            destinations.push(rows[i as usize]);
            starts.push(at as u32);
        }
    }
    starts.push(order.len() as u32);
    let grid = (destinations.len(), width.div_ceil(THREADS), 1);
    // One upload for all three.
    let (many, few) = (order.len(), destinations.len());
    let all = [order, destinations, starts].concat();
    let all = Tensor::from_vec(all, many + 2 * few + 1, sum.device())?;
    let part = |start, length| all.narrow(0, start, length);
    let (order, destinations, starts) = (part(0, many)?, part(many, few)?, part(many + few, few + 1)?);
    let args = [sum, &grad, &order, &destinations, &starts].map(Arg::Tensor);
    launch("add_rows", grid, &[&args[..], &[Arg::Int(width)]].concat())
}

/// `pixel_values` (images, 3, height · width) of bytes (images, height · width, channels), where a byte of an image's
/// colour stands for the number at its place in that image's and colour's table, (images, 3, 256). `device` is a GPU.
///
/// # Errors
/// Whatever the device reports.
pub fn pixels(bytes: &[u8], tables: &[f32], (images, channels): (usize, usize), device: &Device) -> Result<Tensor> {
    let each = bytes.len() / images / channels;
    pixels_of(&Tensor::from_slice(bytes, (images, each, channels), device)?, tables)
}

/// [`pixels`] of bytes that are where they are wanted.
pub(super) fn pixels_of(bytes: &Tensor, tables: &[f32]) -> Result<Tensor> {
    let (images, each, channels) = bytes.dims3()?;
    let tables = Tensor::from_slice(tables, (images, 3, 256), bytes.device())?;
    let out = fresh(&tables, (images, 3, each))?;
    let args = [bytes, &tables, &out].map(Arg::Tensor);
    let told = [each, channels].map(Arg::Int);
    launch("pixels", (each.div_ceil(THREADS), images, 1), &[&args[..], &told].concat())?;
    Ok(out)
}
