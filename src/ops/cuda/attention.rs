//! Attention that keeps no matrix of scores, forward and backward, over items that lie one after the other.

use candle_core::{Result, Tensor};

use super::fresh;
use super::launch::{Arg, launch, over};
use super::tensor_cores::uses_tensor_cores;
use crate::ops::segments::Segments;
use crate::ops::spec::Attention;
use crate::ops::tape::{Value, in_bf16};

/// The widest head, as kernels.cu has it.
const HEAD: usize = 64;

/// The kernels for one type of products, with the queries or keys of a block.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    tile: usize,
    forward: &'static str,
    of_queries: &'static str,
    of_keys: &'static str,
}

pub(super) const IN_F32: Kernels =
    Kernels { tile: 32, forward: "attention", of_queries: "attention_dq", of_keys: "attention_dkv" };

pub(super) const IN_BF16: Kernels =
    Kernels { tile: 64, forward: "attention_bf16", of_queries: "attention_dq_bf16", of_keys: "attention_dkv_bf16" };

/// Whether the kernels take heads of this width.
pub(in crate::ops) fn fits(shape: &Attention, width: usize) -> bool {
    width / shape.heads <= HEAD
}

/// [`Attention::apply`].
pub(in crate::ops) fn attention(shape: &Attention, q: &Value, k: &Value, v: &Value) -> Result<Value> {
    let kernels = if in_bf16(&[q, k, v]) && uses_tensor_cores() { IN_BF16 } else { IN_F32 };
    attention_by(kernels, shape, [q, k, v])
}

pub(super) fn attention_by(kernels: Kernels, shape: &Attention, [q, k, v]: [&Value; 3]) -> Result<Value> {
    let inputs = [q, k, v];
    let call = Call { kernels, ..Call::new(shape, q.tensor(), k.tensor(), v.tensor())? };
    let (out, log_sums) = call.forward()?;
    let (y, (q, k, v)) = (out.clone(), (q.clone(), k.clone(), v.clone()));
    Ok(Value::record(y, &inputs, move |grad| {
        let [dq, dk, dv] = call.backward(&out, &log_sums, &grad.contiguous()?)?;
        [(&q, dq), (&k, dk), (&v, dv)].into_iter().try_for_each(|(value, grad)| value.add_grad(grad))
    }))
}

struct Call {
    kernels: Kernels,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// First row of each item, and the end.
    q_starts: Tensor,
    k_starts: Tensor,
    heads: usize,
    head_width: usize,
    causal: bool,
    /// Without one, further than any key stands.
    window: usize,
    items: usize,
    /// Of any item.
    most: (usize, usize),
}

impl Call {
    fn new(shape: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Self> {
        let starts = |segments: &Segments| {
            let ends = segments.firsts().iter().chain([&segments.rows()]).map(|&row| row as u32).collect::<Vec<_>>();
            Tensor::from_vec(ends, segments.items() + 1, q.device())
        };
        let most = |segments: &Segments| segments.spans().map(|(_, length)| length).max().unwrap_or(0);
        Ok(Self {
            kernels: IN_F32,
            q: q.contiguous()?,
            k: k.contiguous()?,
            v: v.contiguous()?,
            q_starts: starts(&shape.queries)?,
            k_starts: starts(&shape.keys)?,
            heads: shape.heads,
            head_width: q.dim(1)? / shape.heads,
            causal: shape.causal,
            window: shape.window.unwrap_or(i32::MAX as usize),
            items: shape.queries.items(),
            most: (most(&shape.queries), most(&shape.keys)),
        })
    }

    /// Runs a kernel over tiles of the longest of `rows`, with what all of them are told at the end.
    fn launch(&self, kernel: &'static str, rows: usize, tensors: &[&Tensor]) -> Result<()> {
        let tensors = tensors.iter().copied().chain([&self.q_starts, &self.k_starts]).map(Arg::Tensor);
        let scale = (self.head_width as f64).powf(-0.5);
        let tiles = rows.div_ceil(self.kernels.tile);
        let rest = [tiles, self.heads, self.head_width, usize::from(self.causal), self.window].map(Arg::Int);
        let args: Vec<Arg> = tensors.chain(rest).chain([Arg::Float(scale)]).collect();
        launch(kernel, (self.items * tiles, self.heads, 1), &args)
    }

    /// The output, and log Σ exp of each query's scores, (query rows, heads).
    fn forward(&self) -> Result<(Tensor, Tensor)> {
        let out = fresh(&self.q, self.q.shape())?;
        let log_sums = fresh(&self.q, (self.q.dim(0)?, self.heads))?;
        self.launch(self.kernels.forward, self.most.0, &[&self.q, &self.k, &self.v, &out, &log_sums])?;
        Ok((out, log_sums))
    }

    fn backward(&self, out: &Tensor, log_sums: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let delta = fresh(&self.q, log_sums.shape())?;
        let count = delta.elem_count();
        let args = [out, grad, &delta].map(Arg::Tensor);
        launch("attention_delta", over(count), &[&args[..], &[Arg::Count(count), Arg::Int(self.head_width)]].concat())?;
        let (dq, dk, dv) =
            (fresh(&self.q, self.q.shape())?, fresh(&self.k, self.k.shape())?, fresh(&self.v, self.v.shape())?);
        let inputs = [&self.q, &self.k, &self.v, grad, log_sums, &delta];
        self.launch(self.kernels.of_queries, self.most.0, &[&inputs[..], &[&dq]].concat())?;
        self.launch(self.kernels.of_keys, self.most.1, &[&inputs[..], &[&dk, &dv]].concat())?;
        Ok([dq, dk, dv])
    }
}
