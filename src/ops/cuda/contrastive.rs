//! L2-normalise, similarities and label-smoothed cross-entropy: cuBLAS for the products, kernels for all between. An
//! operation of candle's graph, as losses are.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

use super::fresh;
use super::launch::{Arg, launch, over};
use crate::ops::reference::SHORTEST;
use crate::ops::spec::{Contrastive, ContrastiveOutput};

/// [`crate::ops::contrastive`].
pub(in crate::ops) fn contrastive(
    image: &Tensor,
    text: &Tensor,
    scale: &Tensor,
    options: &Contrastive,
) -> Result<ContrastiveOutput> {
    let batch = image.dim(0)?;
    let factor = scale.detach().to_dtype(DType::F32)?.reshape(1)?;
    let (images, texts) = (Unit::new(&image.detach())?, Unit::new(&text.detach())?);
    let sims = images.rows.matmul(&texts.rows.t()?)?.broadcast_mul(&factor)?.contiguous()?;
    let rows = options.image_to_text.then(|| direction(&sims, (batch, 1), options)).transpose()?;
    let columns = options.text_to_image.then(|| direction(&sims, (1, batch), options)).transpose()?;
    // All that the host wants to know, at once: each read waits for the GPU.
    let directions = [&rows, &columns].into_iter().flatten().map(Tensor::flatten_all);
    let read = std::iter::once(Ok(factor.clone())).chain(directions).collect::<Result<Vec<_>>>()?;
    let read = Tensor::cat(&read, 0)?.to_vec1::<f32>()?;
    let mut totals = [0f64; 3];
    for row in read[1..].chunks_exact(4) {
        totals.iter_mut().zip(&row[1..]).for_each(|(total, v)| *total += f64::from(*v));
    }
    let count = batch as f64 * (usize::from(rows.is_some()) + usize::from(columns.is_some())) as f64;
    let [loss, loss_hard, accuracy] = totals.map(|total| total / count);
    let op = Op { options: *options, loss: loss as f32, factor: read[0].into(), images, texts, sims, rows, columns };
    let loss = image.contiguous()?.apply_op3(&text.contiguous()?, scale, op)?;
    Ok(ContrastiveOutput { loss, loss_hard, accuracy })
}

/// Rows of length 1, and the lengths that they had.
struct Unit {
    rows: Tensor,
    lengths: Tensor,
}

impl Unit {
    fn new(x: &Tensor) -> Result<Self> {
        let (count, width) = x.dims2()?;
        let (x, rows, lengths) = (x.contiguous()?, fresh(x, (count, width))?, fresh(x, count)?);
        let args = [&x, &rows, &lengths].map(Arg::Tensor);
        let more = [Arg::Int(width), Arg::Float(f64::from(SHORTEST))];
        launch("unit_rows", (count, 1, 1), &[&args[..], &more].concat())?;
        Ok(Self { rows, lengths })
    }

    /// The gradient of the rows as they were, from that of the unit rows.
    fn backward(&self, grad: &Tensor) -> Result<Tensor> {
        let (count, width) = grad.dims2()?;
        let (grad, dx) = (grad.contiguous()?, fresh(grad, (count, width))?);
        let args = [&self.rows, &self.lengths, &grad, &dx].map(Arg::Tensor);
        let more = [Arg::Int(width), Arg::Float(f64::from(SHORTEST))];
        launch("unit_rows_dx", (count, 1, 1), &[&args[..], &more].concat())?;
        Ok(dx)
    }
}

/// Of each query (batch, 4): log Σ exp, smoothed loss, hard loss, whether it is right.
fn direction(sims: &Tensor, (of_query, of_item): (usize, usize), options: &Contrastive) -> Result<Tensor> {
    let batch = sims.dim(0)?;
    let out = fresh(sims, (batch, 4))?;
    let args = [
        Arg::Tensor(sims),
        Arg::Tensor(&out),
        Arg::Int(batch),
        Arg::Int(of_query),
        Arg::Int(of_item),
        Arg::Float(options.label_smoothing),
    ];
    launch("smoothed_rows", (batch, 1, 1), &args)?;
    Ok(out)
}

struct Op {
    options: Contrastive,
    loss: f32,
    /// The scale, of which the host has a copy.
    factor: f64,
    images: Unit,
    texts: Unit,
    /// scale · images · textsᵀ
    sims: Tensor,
    /// What [`direction`] gave.
    rows: Option<Tensor>,
    columns: Option<Tensor>,
}

impl Op {
    /// The loss's gradient on the similarities, times its own, `upstream`, a scalar that stays where it is.
    fn of_similarities(&self, upstream: &Tensor) -> Result<Tensor> {
        let batch = self.sims.dim(0)?;
        let directions = usize::from(self.rows.is_some()) + usize::from(self.columns.is_some());
        let grad = fresh(&self.sims, (batch, batch))?;
        // A direction that is not asked for is not looked at.
        let some = |direction: &Option<Tensor>| direction.clone().unwrap_or_else(|| self.sims.clone());
        let (rows, columns) = (some(&self.rows), some(&self.columns));
        let args = [&self.sims, &rows, &columns, &grad].map(Arg::Tensor);
        let more = [
            Arg::Int(batch),
            Arg::Int(usize::from(self.rows.is_some())),
            Arg::Int(usize::from(self.columns.is_some())),
            Arg::Float(self.options.label_smoothing),
            Arg::Float(1.0 / (batch * directions) as f64),
        ];
        launch("smoothed_rows_dx", over(batch * batch), &[&args[..], &more].concat())?;
        grad.broadcast_mul(upstream)
    }
}

impl CustomOp3 for Op {
    fn name(&self) -> &'static str {
        "contrastive"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), ().into()))
    }

    fn cuda_fwd(
        &self,
        image: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        use candle_core::backend::{BackendDevice, BackendStorage};
        let loss = image.device().storage_from_slice(&[self.loss])?;
        Ok((loss, ().into()))
    }

    fn bwd(
        &self,
        _image: &Tensor,
        _text: &Tensor,
        scale: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let factor = self.factor;
        if factor == 0.0 {
            bail!("contrastive: the scale is 0");
        }
        let of_sims = self.of_similarities(&upstream.to_dtype(DType::F32)?)?;
        let of_image = self.images.backward(&(of_sims.matmul(&self.texts.rows)? * factor)?)?;
        let of_text = self.texts.backward(&(of_sims.t()?.matmul(&self.images.rows)? * factor)?)?;
        // sims = scale · cosines
        let of_scale = ((of_sims * &self.sims)?.sum_all()? / factor)?.reshape(scale.shape())?;
        Ok((Some(of_image), Some(of_text), Some(of_scale)))
    }
}
