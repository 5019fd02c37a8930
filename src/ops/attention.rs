//! Scaled dot-product attention over rows as the projections give them: no copies for heads, no matrix of scores kept
//! for the backward pass (it is computed again, as in FlashAttention, arXiv 2205.14135), no padding.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu;
use super::cuda;
use super::gemm::{Into, Layout, Threads, product};
use super::profile::{self, Part};
use super::reference;
use super::relevance::Relevance;
use super::segments::Segments;
use super::softmax::{softmax_row, softmax_row_bwd};
use super::spec::Attention;
use super::tape::{Value, composed};

/// Items whose bias gradients are added up by one task.
const ITEMS_PER_PARTIAL: usize = 4;

/// What is added to the scores of each head by where query and key stand, as in Swin and BEiT. Items then have one
/// length.
#[derive(Clone, Debug)]
pub struct PositionBias {
    /// (entries, heads)
    pub table: Value,
    /// Entry of each query and key: (queries · keys).
    pub index: Arc<[u32]>,
    /// Added to the scores of all heads: (windows, queries · keys), for items 0, 1, … and again from the first.
    pub mask: Option<Arc<[f32]>>,
}

impl PositionBias {
    fn expand(&self) -> Result<Expanded> {
        let heads = self.table.tensor().dim(1)?;
        let table = cpu::read(self.table.tensor())?;
        let of_head = |h: usize| self.index.iter().map(|&entry| table[entry as usize * heads + h]).collect::<Vec<_>>();
        Ok(Expanded { scores: (0..heads).flat_map(of_head).collect(), mask: self.mask.clone() })
    }

    /// Takes (heads, queries · keys) back to the table.
    fn add_grad(&self, grad: &[f32]) -> Result<()> {
        let (entries, heads) = self.table.tensor().dims2()?;
        let mut sums = vec![0f32; entries * heads];
        for (h, grad) in grad.chunks_exact(self.index.len()).enumerate() {
            self.index.iter().zip(grad).for_each(|(&entry, g)| sums[entry as usize * heads + h] += g);
        }
        self.table.add_grad(Tensor::from_vec(sums, (entries, heads), self.table.tensor().device())?)
    }

    fn check(&self, shape: &Attention) -> Result<()> {
        let (entries, heads) = self.table.tensor().dims2()?;
        let n = self.index.len();
        let even = |s: &Segments| s.items() == 0 || s.spans().all(|(_, length)| length * s.items() == s.rows());
        let fits = shape.queries.spans().zip(shape.keys.spans()).all(|((_, q), (_, k))| q * k == n);
        let known = self.index.iter().all(|&entry| (entry as usize) < entries);
        let masked = self.mask.as_ref().is_none_or(|m| !m.is_empty() && m.len() % n == 0);
        if heads != shape.heads || !fits || !known || !masked || !even(&shape.queries) || !even(&shape.keys) {
            bail!("attention: a bias of {entries} entries and {heads} heads for {n} places does not fit {shape:?}");
        }
        Ok(())
    }
}

/// A [`PositionBias`] laid out for the loops.
struct Expanded {
    /// (heads, queries · keys)
    scores: Vec<f32>,
    mask: Option<Arc<[f32]>>,
}

impl Expanded {
    /// Adds what belongs to head `h` of item `i`.
    fn add_to(&self, scores: &mut [f32], i: usize, h: usize) {
        let bias = &self.scores[h * scores.len()..(h + 1) * scores.len()];
        scores.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        if let Some(mask) = &self.mask {
            let mask = &mask[i % (mask.len() / scores.len()) * scores.len()..][..scores.len()];
            scores.iter_mut().zip(mask).for_each(|(s, m)| *s += m);
        }
    }
}

impl Attention {
    /// All rows of each item look at all rows of the same item, or with `causal` at those up to themselves.
    pub fn within(segments: &Segments, heads: usize, causal: bool) -> Self {
        Self { heads, queries: segments.clone(), keys: segments.clone(), causal, window: None }
    }

    /// q: (query rows, width), k and v: (key rows, width) → (query rows, width). Scores are scaled by
    /// 1 / √(width / heads).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, q: &Value, k: &Value, v: &Value) -> Result<Value> {
        self.apply_biased(q, k, v, None)
    }

    /// [`Self::apply`] with `bias` added to the scaled scores.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply_biased(&self, q: &Value, k: &Value, v: &Value, bias: Option<&PositionBias>) -> Result<Value> {
        let _timed = profile::enter(Part::Attention);
        self.check(q.tensor(), k.tensor(), v.tensor())?;
        bias.map_or(Ok(()), |bias| bias.check(self))?;
        let (q, k, v) = (&q.widened()?, &k.widened()?, &v.widened()?);
        let (this, bias) = (self.clone(), bias.cloned());
        let inputs: Vec<&Value> = [q, k, v].into_iter().chain(bias.as_ref().map(|b| &b.table)).collect();
        if bias.is_none() && cuda::has_kernels(q.tensor()) && cuda::fits(self, q.tensor().dim(1)?) {
            return cuda::attention(self, q, k, v);
        }
        if !cpu::has_kernels(q.tensor()) {
            let bias = bias.clone();
            return composed(&inputs, move |t| {
                let bias = bias.as_ref().map(|b| (t[3], &*b.index, b.mask.as_deref()));
                reference::attention(t[0], t[1], t[2], &this, bias)
            });
        }
        let y = self.forward(q.tensor(), k.tensor(), v.tensor(), bias.as_ref())?;
        let (q, k, v, kept) = (q.clone(), k.clone(), v.clone(), bias.clone());
        Ok(Value::record(y, &inputs, move |grad| {
            q.leave_relevance(|| this.relevance(q.tensor(), k.tensor(), v.tensor(), &grad, kept.as_ref()))?;
            let [dq, dk, dv] = this.backward(q.tensor(), k.tensor(), v.tensor(), &grad, kept.as_ref())?;
            [(&q, dq), (&k, dk), (&v, dv)].into_iter().try_for_each(|(value, grad)| value.add_grad(grad))
        }))
    }

    fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let (rows, width) = q.dims2()?;
        if self.heads == 0 || width % self.heads != 0 {
            bail!("attention: {} heads do not divide a width of {width}", self.heads);
        }
        if rows != self.queries.rows() || k.dims() != [self.keys.rows(), width] || k.dims() != v.dims() {
            bail!(
                "attention: shapes {:?}, {:?}, {:?} for {} query and {} key rows",
                q.dims(),
                k.dims(),
                v.dims(),
                self.queries.rows(),
                self.keys.rows()
            );
        }
        let mut lengths = self.queries.spans().zip(self.keys.spans());
        if self.queries.items() != self.keys.items()
            || ((self.causal || self.window.is_some()) && lengths.any(|((_, q), (_, k))| q > k))
        {
            bail!("attention: queries {:?} do not fit keys {:?}", self.queries, self.keys);
        }
        Ok(())
    }

    /// The places of head `h` within the rows of one item.
    fn head(&self, h: usize, width: usize) -> (usize, usize) {
        let head_width = width / self.heads;
        (h * head_width, head_width)
    }

    fn scale(&self, width: usize) -> f32 {
        ((width / self.heads) as f32).sqrt().recip()
    }

    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&PositionBias>) -> Result<Tensor> {
        let width = q.dim(1)?;
        let bias = bias.map(PositionBias::expand).transpose()?;
        let (qs, ks, vs) = (cpu::read(q)?, cpu::read(k)?, cpu::read(v)?);
        let mut out = vec![0f32; qs.len()];
        let inputs = self.queries.split(&qs, width).into_par_iter().zip(self.keys.split(&ks, width));
        let items = inputs.zip(self.keys.split(&vs, width)).zip(self.queries.split_mut(&mut out, width));
        items.enumerate().for_each_init(Vec::new, |p, (i, (((q, k), v), out))| {
            let (queries, keys) = (q.len() / width, k.len() / width);
            p.resize(queries * keys, 0.0);
            for h in 0..self.heads {
                let (at, head_width) = self.head(h, width);
                let part = |rows| Layout::part(rows, head_width, width);
                let bias = |scores: &mut [f32]| bias.as_ref().map_or((), |bias| bias.add_to(scores, i, h));
                self.probabilities(&q[at..], &k[at..], (queries, keys, width), bias, p);
                let (p, v) = (Layout::plain(queries, keys).of(p), part(keys).of(&v[at..]));
                product((&mut out[at..], part(queries), Into::Over), 1.0, p, v, Threads::One);
            }
        });
        Tensor::from_vec(out, q.dims(), q.device())
    }

    /// softmax(q · kᵀ · scale) of one head into `p`, (queries, keys); `bias` changes the scores.
    fn probabilities(
        &self,
        q: &[f32],
        k: &[f32],
        (queries, keys, width): (usize, usize, usize),
        bias: impl Fn(&mut [f32]),
        p: &mut [f32],
    ) {
        let head_width = width / self.heads;
        let (q, k) = (Layout::part(queries, head_width, width).of(q), Layout::part(keys, head_width, width).of(k));
        let scores = (&mut *p, Layout::plain(queries, keys), Into::Over);
        product(scores, self.scale(width), q, k.transposed(), Threads::One);
        bias(p);
        for (i, row) in p.chunks_exact_mut(keys).enumerate() {
            // More queries than keys are allowed where neither depends on the place.
            let place = (i + keys).saturating_sub(queries);
            if self.causal {
                row[place + 1..].fill(f32::NEG_INFINITY);
            }
            if let Some(window) = self.window {
                row[..place.saturating_sub(window).min(keys)].fill(f32::NEG_INFINITY);
                row[(place + window + 1).min(keys)..].fill(f32::NEG_INFINITY);
            }
            softmax_row(row);
        }
    }

    /// Gradient × attention of the first item.
    fn relevance(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        grad: &Tensor,
        bias: Option<&PositionBias>,
    ) -> Result<Relevance> {
        let width = q.dim(1)?;
        let bias = bias.map(PositionBias::expand).transpose()?;
        let (qs, ks, vs, gs) = (cpu::read(q)?, cpu::read(k)?, cpu::read(v)?, cpu::read(grad)?);
        let (Some((_, queries)), Some((_, keys))) = (self.queries.spans().next(), self.keys.spans().next()) else {
            bail!("attention: no item");
        };
        let mut p = vec![0f32; queries * keys];
        let mut values = vec![0f32; queries * keys];
        for h in 0..self.heads {
            let (at, head_width) = self.head(h, width);
            let bias = |scores: &mut [f32]| bias.as_ref().map_or((), |bias| bias.add_to(scores, 0, h));
            self.probabilities(&qs[at..], &ks[at..], (queries, keys, width), bias, &mut p);
            for (i, (value, p)) in values.iter_mut().zip(&p).enumerate() {
                let (query, key) = (i / keys * width + at, i % keys * width + at);
                let slope: f32 = (0..head_width).map(|d| gs[query + d] * vs[key + d]).sum();
                *value += (p * slope).max(0.0) / self.heads as f32;
            }
        }
        Ok(Relevance { queries, keys, values })
    }

    fn backward(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        grad: &Tensor,
        bias: Option<&PositionBias>,
    ) -> Result<[Tensor; 3]> {
        let width = q.dim(1)?;
        let expanded = bias.map(PositionBias::expand).transpose()?;
        let learnt = bias.filter(|b| b.table.wants_grad());
        let (qs, ks, vs, gs) = (cpu::read(q)?, cpu::read(k)?, cpu::read(v)?, cpu::read(grad)?);
        let (mut dq, mut dk, mut dv) = (vec![0f32; qs.len()], vec![0f32; ks.len()], vec![0f32; vs.len()]);
        let of_queries = self.queries.split(&qs, width).into_par_iter().zip(self.queries.split(&gs, width));
        let of_keys = self.keys.split(&ks, width).into_par_iter().zip(self.keys.split(&vs, width));
        let to_keys = self.keys.split_mut(&mut dk, width).into_par_iter().zip(self.keys.split_mut(&mut dv, width));
        let outputs = self.queries.split_mut(&mut dq, width).into_par_iter().zip(to_keys);
        // Gradients of the bias, added up in parts whose size does not depend on the number of threads.
        let sums = learnt.map_or(0, |b| self.heads * b.index.len());
        let parts: Vec<Vec<f32>> = of_queries
            .zip(of_keys)
            .zip(outputs)
            .enumerate()
            .fold_chunks(
                if sums == 0 { 1 } else { ITEMS_PER_PARTIAL },
                || vec![0f32; sums],
                |mut sums, (i, (((q, grad), (k, v)), (dq, (dk, dv))))| {
                    let (p, ds) = (&mut Vec::new(), &mut Vec::new());
                    let (queries, keys) = (q.len() / width, k.len() / width);
                    p.resize(queries * keys, 0.0);
                    ds.resize(queries * keys, 0.0);
                    let square = Layout::plain(queries, keys);
                    for h in 0..self.heads {
                        let (at, head_width) = self.head(h, width);
                        let (of_q, of_k) =
                            (Layout::part(queries, head_width, width), Layout::part(keys, head_width, width));
                        let bias = |scores: &mut [f32]| expanded.as_ref().map_or((), |bias| bias.add_to(scores, i, h));
                        self.probabilities(&q[at..], &k[at..], (queries, keys, width), bias, p);
                        let g = of_q.of(&grad[at..]);
                        let (d_v, d_q, d_k) = (&mut dv[at..], &mut dq[at..], &mut dk[at..]);
                        product((d_v, of_k, Into::Over), 1.0, square.of(p).transposed(), g, Threads::One);
                        product((ds, square, Into::Over), 1.0, g, of_k.of(&v[at..]).transposed(), Threads::One);
                        p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)).for_each(|(p, ds)| softmax_row_bwd(p, ds));
                        if !sums.is_empty() {
                            let sums = &mut sums[h * ds.len()..(h + 1) * ds.len()];
                            sums.iter_mut().zip(ds.iter()).for_each(|(sum, d)| *sum += d);
                        }
                        let (ds, scale) = (square.of(ds), self.scale(width));
                        product((d_q, of_q, Into::Over), scale, ds, of_k.of(&k[at..]), Threads::One);
                        product((d_k, of_k, Into::Over), scale, ds.transposed(), of_q.of(&q[at..]), Threads::One);
                    }
                    sums
                },
            )
            .collect();
        if let Some(bias) = learnt {
            let mut total = vec![0f32; sums];
            parts.iter().for_each(|part| total.iter_mut().zip(part).for_each(|(t, p)| *t += p));
            bias.add_grad(&total)?;
        }
        let tensor = |d: Vec<f32>, like: &Tensor| Tensor::from_vec(d, like.dims(), like.device());
        Ok([tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?])
    }
}
