//! What stands for the rows of each item, where items have various numbers of rows: a weighted sum by the softmax of
//! scores, and the largest of each column. The mean is [`super::mean_rows`].

use candle_core::{D, DType, Result, Tensor, bail};
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;
use super::profile::{self, Part};
use super::reference::{self, SHORTEST};
use super::scale::dot;
use super::segments::Segments;
use super::simd::vectorised;
use super::softmax::{softmax_row, softmax_row_bwd};
use super::tape::{Value, composed};

/// The sum over the rows of each item, each times its share in the softmax over the scores of the item's rows.
/// x: (rows, width), scores: (rows, 1) → (items, width).
///
/// # Errors
/// Shapes that do not fit, an item without rows.
pub fn softmax_pool(x: &Value, scores: &Value, segments: &Segments) -> Result<Value> {
    let _timed = profile::enter(Part::Attention);
    let (rows, width) = x.tensor().dims2()?;
    check("softmax_pool", rows, segments)?;
    if scores.tensor().dims() != [rows, 1] {
        bail!("softmax_pool: {rows} rows and scores of {:?}", scores.tensor().dims());
    }
    let (x, scores, segments) = (&x.widened()?, &scores.widened()?, segments.clone());
    if !cpu::has_kernels(x.tensor()) {
        return composed(&[x, scores], move |t| reference::softmax_pool(t[0], t[1], &segments));
    }
    let shares = softmax_shares(scores.tensor(), &segments)?;
    let mut y = vec![0f32; segments.items() * width];
    let xs = cpu::read(x.tensor())?;
    let items = segments.split(&xs, width).into_par_iter().zip(segments.split(&shares, 1));
    items.zip(y.par_chunks_mut(width)).for_each(|((x, shares), y)| {
        x.chunks_exact(width).zip(shares).for_each(|(x, share)| add_scaled(y, x, *share));
    });
    drop(xs);
    let y = Tensor::from_vec(y, (segments.items(), width), x.tensor().device())?;
    let inputs = [x, scores];
    let (x, scores) = (x.clone(), scores.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let gs = cpu::read(&grad)?;
        if scores.wants_grad() {
            let mut dscores = overwritten(segments.rows());
            let xs = cpu::read(x.tensor())?;
            let items = segments.split_mut(&mut dscores, 1).into_par_iter().zip(segments.split(&xs, width));
            items.zip(segments.split(&shares, 1)).zip(gs.par_chunks(width)).for_each(|(((ds, x), shares), g)| {
                x.chunks_exact(width).zip(ds.iter_mut()).for_each(|(x, ds)| *ds = dot(x, g));
                softmax_row_bwd(shares, ds);
            });
            scores.add_grad(Tensor::from_vec(dscores, (segments.rows(), 1), grad.device())?)?;
        }
        if x.wants_grad() {
            let mut dx = vec![0f32; segments.rows() * width];
            let items = segments.split_mut(&mut dx, width).into_par_iter().zip(segments.split(&shares, 1));
            items.zip(gs.par_chunks(width)).for_each(|((dx, shares), g)| {
                dx.chunks_exact_mut(width).zip(shares).for_each(|(dx, share)| add_scaled(dx, g, *share));
            });
            x.add_grad(Tensor::from_vec(dx, (segments.rows(), width), grad.device())?)?;
        }
        Ok(())
    }))
}

/// The softmax over the scores of each item's rows. scores: (rows, 1) → as many numbers.
///
/// # Errors
/// Whatever the device reports.
pub fn softmax_shares(scores: &Tensor, segments: &Segments) -> Result<Vec<f32>> {
    let mut shares: Vec<f32> = scores.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    check("softmax_shares", shares.len(), segments)?;
    segments.split_mut(&mut shares, 1).into_iter().for_each(|row| softmax_row(row, row.len()));
    Ok(shares)
}

/// The largest number of each column over the rows of each item. x: (rows, width) → (items, width).
///
/// # Errors
/// Shapes that do not fit, an item without rows.
pub fn max_rows(x: &Value, segments: &Segments) -> Result<Value> {
    let _timed = profile::enter(Part::Attention);
    let (rows, width) = x.tensor().dims2()?;
    check("max_rows", rows, segments)?;
    let (x, segments) = (&x.widened()?, segments.clone());
    if !cpu::has_kernels(x.tensor()) {
        return composed(&[x], move |t| reference::max_rows(t[0], &segments));
    }
    let mut y = vec![f32::NEG_INFINITY; segments.items() * width];
    let mut chosen = vec![0usize; y.len()];
    let xs = cpu::read(x.tensor())?;
    for ((start, length), (y, chosen)) in
        segments.spans().zip(y.chunks_exact_mut(width).zip(chosen.chunks_exact_mut(width)))
    {
        for row in start..start + length {
            let x = &xs[row * width..(row + 1) * width];
            for ((y, chosen), x) in y.iter_mut().zip(chosen.iter_mut()).zip(x) {
                // A NaN goes through, as in PyTorch.
                if *x > *y || x.is_nan() {
                    (*y, *chosen) = (*x, row);
                }
            }
        }
    }
    drop(xs);
    let y = Tensor::from_vec(y, (segments.items(), width), x.tensor().device())?;
    let kept = x.clone();
    Ok(Value::record(y, &[x], move |grad| {
        let mut dx = vec![0f32; rows * width];
        let gs = cpu::read(&grad)?;
        gs.iter().zip(&chosen).enumerate().for_each(|(i, (g, row))| dx[row * width + i % width] += g);
        kept.add_grad(Tensor::from_vec(dx, (rows, width), grad.device())?)
    }))
}

/// Rows divided by their Euclidean norm, which is taken as at least 1e-12, as [`reference::l2_normalize`] does it.
/// x: (rows, width).
///
/// # Errors
/// Shapes that do not fit.
pub fn l2_normalize(x: &Value) -> Result<Value> {
    let _timed = profile::enter(Part::Loss);
    let (_, width) = x.tensor().dims2()?;
    let x = &x.widened()?;
    // The way that embeddings go without a tape, so that both have the same bits.
    let y = reference::l2_normalize(x.tensor())?;
    if !cpu::has_kernels(x.tensor()) {
        return composed(&[x], |t| reference::l2_normalize(t[0]));
    }
    let norms: Vec<f32> = x.tensor().sqr()?.sum_keepdim(D::Minus1)?.flatten_all()?.to_vec1()?;
    let (kept, unit) = (x.clone(), y.clone());
    Ok(Value::record(y, &[x], move |grad| {
        let (gs, ys) = (cpu::read(&grad)?, cpu::read(&unit)?);
        let mut dx = overwritten(gs.len());
        let rows = dx.par_chunks_mut(width).zip(gs.par_chunks(width)).zip(ys.par_chunks(width)).zip(&norms);
        rows.for_each(|(((dx, g), y), square)| {
            let norm = square.sqrt().max(SHORTEST);
            // A row as short as that is only scaled.
            let along = if *square > SHORTEST * SHORTEST { dot(y, g) } else { 0.0 };
            dx.iter_mut().zip(g.iter().zip(y)).for_each(|(dx, (g, y))| *dx = (g - along * y) / norm);
        });
        drop((gs, ys));
        kept.add_grad(Tensor::from_vec(dx, grad.dims(), grad.device())?)
    }))
}

fn check(name: &str, rows: usize, segments: &Segments) -> Result<()> {
    if rows != segments.rows() || segments.spans().any(|(_, length)| length == 0) {
        bail!("{name}: {rows} rows for {segments:?}");
    }
    Ok(())
}

vectorised! {
    fn add_scaled(y: &mut [f32], x: &[f32], scale: f32) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * x);
    }
}
