//! Scaled dot-product attention over rows as the projections give them: no copies for heads, no matrix of scores kept
//! for the backward pass (it is computed again, as in FlashAttention, arXiv 2205.14135).

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu;
use super::product::{Matrix, product};
use super::softmax::{softmax_row, softmax_row_bwd};

/// Attention of `heads` heads. q, k, v: (batch, tokens, width), a head's numbers side by side within `width` → the same
/// shape. With `causal`, a token looks at none behind it. Scores are scaled by 1 / √(width / heads).
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, causal: bool) -> Result<Tensor> {
    let (_, _, width) = q.dims3()?;
    if heads == 0 || width % heads != 0 {
        candle_core::bail!("attention: {heads} heads do not divide a width of {width}");
    }
    if q.dims() != k.dims() || q.dims() != v.dims() {
        candle_core::bail!("attention: shapes {:?}, {:?}, {:?} differ", q.dims(), k.dims(), v.dims());
    }
    if !cpu::is_cpu_f32(q) {
        return super::reference::attention(q, k, v, heads, causal);
    }
    let scale = ((width / heads) as f32).sqrt().recip();
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, Attention { heads, scale, causal })
}

struct Attention {
    heads: usize,
    scale: f32,
    causal: bool,
}

impl Attention {
    /// The numbers of one head in one item of the batch: (tokens, head_width).
    fn head(&self, h: usize, tokens: usize, width: usize) -> Matrix {
        let head_width = width / self.heads;
        Matrix { offset: h * head_width, rows: tokens, columns: head_width, row_stride: width, column_stride: 1 }
    }

    /// softmax(q · kᵀ · scale) of one head into `p`, (tokens, tokens).
    fn probabilities(&self, q: &[f32], k: &[f32], head: Matrix, p: &mut [f32]) {
        let tokens = head.rows;
        product(p, Matrix::plain(tokens, tokens), self.scale, q, head, k, head.transposed());
        for (i, row) in p.chunks_exact_mut(tokens).enumerate() {
            if self.causal {
                row[i + 1..].fill(f32::NEG_INFINITY);
            }
            softmax_row(row);
        }
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, tokens, width) = lq.shape().dims3()?;
        let (q, k, v) = (cpu::slice(q, lq)?, cpu::slice(k, lk)?, cpu::slice(v, lv)?);
        let mut out = vec![0f32; q.len()];
        let item = tokens * width;
        let items = out.par_chunks_mut(item).zip(q.par_chunks(item)).zip(k.par_chunks(item)).zip(v.par_chunks(item));
        items.for_each_init(
            || vec![0f32; tokens * tokens],
            |p, (((out, q), k), v)| {
                for h in 0..self.heads {
                    let head = self.head(h, tokens, width);
                    self.probabilities(q, k, head, p);
                    product(out, head, 1.0, p, Matrix::plain(tokens, tokens), v, head);
                }
            },
        );
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, tokens, width) = q.dims3()?;
        let count = q.elem_count();
        let (mut dq, mut dk, mut dv) = (vec![0f32; count], vec![0f32; count], vec![0f32; count]);
        let grad = grad.contiguous()?;
        cpu::with_slice(q, |q| {
            cpu::with_slice(k, |k| {
                cpu::with_slice(v, |v| {
                    cpu::with_slice(&grad, |grad| {
                        let item = tokens * width;
                        let inputs = q.par_chunks(item).zip(k.par_chunks(item)).zip(v.par_chunks(item));
                        let outputs = dq.par_chunks_mut(item).zip(dk.par_chunks_mut(item)).zip(dv.par_chunks_mut(item));
                        inputs.zip(grad.par_chunks(item)).zip(outputs).for_each_init(
                            || (vec![0f32; tokens * tokens], vec![0f32; tokens * tokens]),
                            |(p, ds), ((((q, k), v), grad), ((dq, dk), dv))| {
                                let square = Matrix::plain(tokens, tokens);
                                for h in 0..self.heads {
                                    let head = self.head(h, tokens, width);
                                    self.probabilities(q, k, head, p);
                                    product(dv, head, 1.0, p, square.transposed(), grad, head);
                                    product(ds, square, 1.0, grad, head, v, head.transposed());
                                    let rows = p.chunks_exact(tokens).zip(ds.chunks_exact_mut(tokens));
                                    rows.for_each(|(p, ds)| softmax_row_bwd(p, ds));
                                    product(dq, head, self.scale, ds, square, k, head);
                                    product(dk, head, self.scale, ds, square.transposed(), q, head);
                                }
                            },
                        );
                    })
                })
            })
        })????;
        let wanted = |t: &Tensor, d: Vec<f32>| -> Result<Option<Tensor>> {
            if t.track_op() { Tensor::from_vec(d, t.dims(), t.device()).map(Some) } else { Ok(None) }
        };
        Ok((wanted(q, dq)?, wanted(k, dk)?, wanted(v, dv)?))
    }
}
