//! L2-normalise, scaled similarities and label-smoothed cross-entropy over the diagonal, as one operation: similarities
//! are kept once, and no copy of them transposed, exponentiated or smoothed. An operation of candle's graph, as losses
//! are.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, DType, Layout as Places, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::gemm::{Into, Layout, Threads, product};
use super::reference;
use super::simd::{self, vectorised};
use super::spec::{Contrastive, ContrastiveOutput};

/// The loss of `image` and `text` features, both (batch, embed_dim) and not normalised, at `scale`, a scalar. Row i of
/// one belongs to row i of the other.
///
/// # Errors
/// Shapes that do not fit, neither direction asked for.
pub fn contrastive(image: &Tensor, text: &Tensor, scale: &Tensor, options: &Contrastive) -> Result<ContrastiveOutput> {
    if image.dims2()? != text.dims2()? {
        bail!("contrastive: image features are {:?}, text features {:?}", image.dims(), text.dims());
    }
    if !options.image_to_text && !options.text_to_image {
        bail!("contrastive: no direction is asked for");
    }
    if cuda::has_kernels(image) {
        return cuda::contrastive(image, text, scale, options);
    }
    if !cpu::has_kernels(image) {
        return reference::contrastive(image, text, scale, options);
    }
    let op = Arc::new(Op { options: *options, forward: OnceLock::new() });
    let loss = image.contiguous()?.apply_op3(&text.contiguous()?, scale, Shared(Arc::clone(&op)))?;
    match op.forward.get() {
        Some(f) => Ok(ContrastiveOutput { loss, loss_hard: f.loss_hard, accuracy: f.accuracy }),
        None => bail!("contrastive: the forward pass left nothing"),
    }
}

struct Op {
    options: Contrastive,
    forward: OnceLock<Forward>,
}

/// What the backward pass needs, and figures.
struct Forward {
    images: Unit,
    texts: Unit,
    /// scale · images · textsᵀ, (batch, batch)
    sims: Vec<f32>,
    /// log Σ exp over each row and each column.
    log_sums: [Vec<f32>; 2],
    loss_hard: f64,
    accuracy: f64,
}

/// Rows of length 1, and the lengths that they had.
pub(super) struct Unit {
    pub rows: Vec<f32>,
    pub lengths: Vec<f32>,
}

impl Unit {
    pub fn new(x: &[f32], width: usize) -> Self {
        let mut rows = x.to_vec();
        let lengths = rows
            .par_chunks_mut(width)
            .map(|row| {
                let length = simd::sum(row.len(), |i| row[i] * row[i]).sqrt().max(reference::SHORTEST);
                row.iter_mut().for_each(|v| *v /= length);
                length
            })
            .collect();
        Self { rows, lengths }
    }

    /// The gradient of the rows as they were, from that of the unit rows: what points along a row is lost.
    pub fn backward(&self, grad: &mut [f32], width: usize) {
        let rows = self.rows.par_chunks(width).zip(&self.lengths);
        grad.par_chunks_mut(width).zip(rows).for_each(|(g, (row, &length))| {
            let along = if length > reference::SHORTEST { simd::sum(g.len(), |i| g[i] * row[i]) } else { 0.0 };
            g.iter_mut().zip(row).for_each(|(g, r)| *g = (*g - along * r) / length);
        });
    }
}

vectorised! {
    /// log Σ exp and Σ of one row.
    fn log_sum_exp(row: &[f32]) -> (f32, f32) {
        let max = simd::max(row);
        let sum = simd::sum(row.len(), |i| simd::exp(row[i] - max));
        (max + sum.ln(), simd::sum(row.len(), |i| row[i]))
    }
}

/// Over one direction: log Σ exp of each row, and sums over rows of smoothed loss, hard loss, and right answers.
fn direction(sims: &[f32], batch: usize, eps: f64) -> (Vec<f32>, [f64; 3]) {
    let rows: Vec<(f32, [f64; 3])> = sims
        .par_chunks(batch)
        .enumerate()
        .map(|(i, row)| {
            let (log_sum, sum) = log_sum_exp(row);
            let (own, log) = (f64::from(row[i]), f64::from(log_sum));
            let smoothed = log - (1.0 - eps) * own - eps / batch as f64 * f64::from(sum);
            let right = row.iter().enumerate().all(|(k, &v)| k == i || v < row[i]);
            (log_sum, [smoothed, log - own, f64::from(u8::from(right))])
        })
        .collect();
    let mut totals = [0.0; 3];
    rows.iter().for_each(|(_, row)| totals.iter_mut().zip(row).for_each(|(t, r)| *t += r));
    (rows.into_iter().map(|(log_sum, _)| log_sum).collect(), totals)
}

fn similarities(a: &Unit, b: &Unit, width: usize, scale: f32) -> Vec<f32> {
    let batch = a.lengths.len();
    let mut sims = vec![0f32; batch * batch];
    let (rows, layout) = (Layout::plain(batch, width), Layout::plain(batch, batch));
    product((&mut sims, layout, Into::Over), scale, rows.of(&a.rows), rows.of(&b.rows).transposed(), Threads::All);
    sims
}

impl Op {
    fn directions(&self) -> [bool; 2] {
        [self.options.image_to_text, self.options.text_to_image]
    }

    fn run(&self, image: &[f32], text: &[f32], width: usize, scale: f32) -> (f64, Forward) {
        let (images, texts) = (Unit::new(image, width), Unit::new(text, width));
        let batch = images.lengths.len();
        let sims = similarities(&images, &texts, width, scale);
        let [i2t, t2i] = self.directions();
        let eps = self.options.label_smoothing;
        let none = || (Vec::new(), [0.0; 3]);
        let (rows, of_rows) = if i2t { direction(&sims, batch, eps) } else { none() };
        let (columns, of_columns) =
            if t2i { direction(&similarities(&texts, &images, width, scale), batch, eps) } else { none() };
        let count = batch as f64 * (f64::from(u8::from(i2t)) + f64::from(u8::from(t2i)));
        let [loss, loss_hard, accuracy] = std::array::from_fn(|i| (of_rows[i] + of_columns[i]) / count);
        (loss, Forward { images, texts, sims, log_sums: [rows, columns], loss_hard, accuracy })
    }

    /// The gradient of the loss on each similarity, times its own gradient `upstream`.
    fn of_similarities(&self, f: &Forward, upstream: f32) -> Vec<f32> {
        let batch = f.images.lengths.len();
        let [i2t, t2i] = self.directions();
        let directions = f32::from(u8::from(i2t)) + f32::from(u8::from(t2i));
        let factor = upstream / (batch as f32 * directions);
        let eps = self.options.label_smoothing;
        let (everywhere, own) = ((eps / batch as f64) as f32 * directions, (1.0 - eps) as f32 * directions);
        let mut grad = vec![0f32; f.sims.len()];
        grad.par_chunks_mut(batch).zip(f.sims.par_chunks(batch)).enumerate().for_each(|(i, (grad, sims))| {
            let of_row = i2t.then(|| f.log_sums[0][i]);
            let of_columns = t2i.then_some(f.log_sums[1].as_slice());
            similarity_grad_row(grad, sims, of_row, of_columns, everywhere);
            grad[i] -= own;
            grad.iter_mut().for_each(|g| *g *= factor);
        });
        grad
    }
}

vectorised! {
    fn similarity_grad_row(
        grad: &mut [f32], sims: &[f32], of_row: Option<f32>, of_columns: Option<&[f32]>, everywhere: f32,
    ) {
        grad.fill(-everywhere);
        if let Some(log_sum) = of_row {
            grad.iter_mut().zip(sims).for_each(|(g, s)| *g += simd::exp(s - log_sum));
        }
        if let Some(log_sums) = of_columns {
            grad.iter_mut().zip(sims).zip(log_sums).for_each(|((g, s), log_sum)| *g += simd::exp(s - log_sum));
        }
    }
}

/// candle keeps the operation in a box of its own; the caller reads the figures from the shared one.
struct Shared(Arc<Op>);

impl CustomOp3 for Shared {
    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn cpu_fwd(
        &self,
        image: &CpuStorage,
        at_image: &Places,
        text: &CpuStorage,
        at_text: &Places,
        scale: &CpuStorage,
        at_scale: &Places,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = at_image.shape().dims2()?;
        let (image, text) = (cpu::slice(image, at_image)?, cpu::slice(text, at_text)?);
        let scale = match cpu::slice(scale, at_scale)? {
            [scale] => *scale,
            other => bail!("contrastive: the scale has {} numbers", other.len()),
        };
        let (loss, forward) = self.0.run(image, text, width, scale);
        // Runs once: the operation is made for one call.
        let _ = self.0.forward.set(forward);
        Ok((CpuStorage::F32(vec![loss as f32]), ().into()))
    }

    fn bwd(
        &self,
        image: &Tensor,
        _text: &Tensor,
        scale: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(f) = self.0.forward.get() else { bail!("contrastive: backward before forward") };
        let (batch, width) = image.dims2()?;
        let factor: f32 = scale.to_dtype(DType::F32)?.to_scalar()?;
        let of_sims = self.0.of_similarities(f, upstream.to_scalar()?);
        let square = Layout::plain(batch, batch).of(&of_sims);
        let rows = Layout::plain(batch, width);
        let mut of_image = vec![0f32; batch * width];
        product((&mut of_image, rows, Into::Over), factor, square, rows.of(&f.texts.rows), Threads::All);
        f.images.backward(&mut of_image, width);
        let mut of_text = vec![0f32; batch * width];
        product((&mut of_text, rows, Into::Over), factor, square.transposed(), rows.of(&f.images.rows), Threads::All);
        f.texts.backward(&mut of_text, width);
        // sims = scale · cosines
        let dots = of_sims.par_chunks(batch).zip(f.sims.par_chunks(batch));
        let dots: Vec<f64> = dots.map(|(g, s)| f64::from(simd::sum(g.len(), |i| g[i] * s[i]))).collect();
        let of_scale = (dots.iter().sum::<f64>() / f64::from(factor)) as f32;
        let device = image.device();
        Ok((
            Some(Tensor::from_vec(of_image, (batch, width), device)?),
            Some(Tensor::from_vec(of_text, (batch, width), device)?),
            Some(Tensor::new(of_scale, device)?.reshape(scale.shape())?),
        ))
    }
}
