//! Scaled dot-product attention over rows as the projections give them: no copies for heads, no matrix of scores kept
//! for the backward pass (it is computed again, as in FlashAttention, arXiv 2205.14135), no padding.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu;
use super::gemm::{Into, Layout, Threads, product};
use super::reference;
use super::segments::Segments;
use super::softmax::{softmax_row, softmax_row_bwd};
use super::tape::{Value, composed};

/// Which rows look at which.
#[derive(Clone, Debug)]
pub struct Attention {
    /// A head's numbers stand side by side within a row.
    pub heads: usize,
    /// The rows of each item that look.
    pub queries: Segments,
    /// The rows of each item that are looked at.
    pub keys: Segments,
    /// Whether a query sees no key behind it; an item's last query stands at its last key.
    pub causal: bool,
}

impl Attention {
    /// All rows of each item look at all rows of the same item, or with `causal` at those up to themselves.
    pub fn within(segments: &Segments, heads: usize, causal: bool) -> Self {
        Self { heads, queries: segments.clone(), keys: segments.clone(), causal }
    }

    /// q: (query rows, width), k and v: (key rows, width) → (query rows, width). Scores are scaled by
    /// 1 / √(width / heads).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, q: &Value, k: &Value, v: &Value) -> Result<Value> {
        self.check(q.tensor(), k.tensor(), v.tensor())?;
        let this = self.clone();
        if !cpu::has_kernels(q.tensor()) {
            return composed(&[q, k, v], move |t| reference::attention(t[0], t[1], t[2], &this));
        }
        let y = self.forward(q.tensor(), k.tensor(), v.tensor())?;
        let inputs = [q, k, v];
        let (q, k, v) = (q.clone(), k.clone(), v.clone());
        Ok(Value::record(y, &inputs, move |grad| {
            let [dq, dk, dv] = this.backward(q.tensor(), k.tensor(), v.tensor(), &grad)?;
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
        if self.queries.items() != self.keys.items() || (self.causal && lengths.any(|((_, q), (_, k))| q > k)) {
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

    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let width = q.dim(1)?;
        let (qs, ks, vs) = (cpu::read(q)?, cpu::read(k)?, cpu::read(v)?);
        let mut out = vec![0f32; qs.len()];
        let inputs = self.queries.split(&qs, width).into_par_iter().zip(self.keys.split(&ks, width));
        let items = inputs.zip(self.keys.split(&vs, width)).zip(self.queries.split_mut(&mut out, width));
        items.for_each_init(Vec::new, |p, (((q, k), v), out)| {
            let (queries, keys) = (q.len() / width, k.len() / width);
            p.resize(queries * keys, 0.0);
            for h in 0..self.heads {
                let (at, head_width) = self.head(h, width);
                let part = |rows| Layout::part(rows, head_width, width);
                self.probabilities(&q[at..], &k[at..], (queries, keys, width), p);
                let (p, v) = (Layout::plain(queries, keys).of(p), part(keys).of(&v[at..]));
                product((&mut out[at..], part(queries), Into::Over), 1.0, p, v, Threads::One);
            }
        });
        Tensor::from_vec(out, q.dims(), q.device())
    }

    /// softmax(q · kᵀ · scale) of one head into `p`, (queries, keys).
    fn probabilities(&self, q: &[f32], k: &[f32], (queries, keys, width): (usize, usize, usize), p: &mut [f32]) {
        let head_width = width / self.heads;
        let (q, k) = (Layout::part(queries, head_width, width).of(q), Layout::part(keys, head_width, width).of(k));
        let scores = (&mut *p, Layout::plain(queries, keys), Into::Over);
        product(scores, self.scale(width), q, k.transposed(), Threads::One);
        for (i, row) in p.chunks_exact_mut(keys).enumerate() {
            if self.causal {
                row[i + 1 + keys - queries..].fill(f32::NEG_INFINITY);
            }
            softmax_row(row);
        }
    }

    fn backward(&self, q: &Tensor, k: &Tensor, v: &Tensor, grad: &Tensor) -> Result<[Tensor; 3]> {
        let width = q.dim(1)?;
        let (qs, ks, vs, gs) = (cpu::read(q)?, cpu::read(k)?, cpu::read(v)?, cpu::read(grad)?);
        let (mut dq, mut dk, mut dv) = (vec![0f32; qs.len()], vec![0f32; ks.len()], vec![0f32; vs.len()]);
        let of_queries = self.queries.split(&qs, width).into_par_iter().zip(self.queries.split(&gs, width));
        let of_keys = self.keys.split(&ks, width).into_par_iter().zip(self.keys.split(&vs, width));
        let to_keys = self.keys.split_mut(&mut dk, width).into_par_iter().zip(self.keys.split_mut(&mut dv, width));
        let outputs = self.queries.split_mut(&mut dq, width).into_par_iter().zip(to_keys);
        of_queries.zip(of_keys).zip(outputs).for_each_init(
            || (Vec::new(), Vec::new()),
            |(p, ds), (((q, grad), (k, v)), (dq, (dk, dv)))| {
                let (queries, keys) = (q.len() / width, k.len() / width);
                p.resize(queries * keys, 0.0);
                ds.resize(queries * keys, 0.0);
                let square = Layout::plain(queries, keys);
                for h in 0..self.heads {
                    let (at, head_width) = self.head(h, width);
                    let (of_q, of_k) =
                        (Layout::part(queries, head_width, width), Layout::part(keys, head_width, width));
                    self.probabilities(&q[at..], &k[at..], (queries, keys, width), p);
                    let g = of_q.of(&grad[at..]);
                    let (d_v, d_q, d_k) = (&mut dv[at..], &mut dq[at..], &mut dk[at..]);
                    product((d_v, of_k, Into::Over), 1.0, square.of(p).transposed(), g, Threads::One);
                    product((ds, square, Into::Over), 1.0, g, of_k.of(&v[at..]).transposed(), Threads::One);
                    p.chunks_exact(keys).zip(ds.chunks_exact_mut(keys)).for_each(|(p, ds)| softmax_row_bwd(p, ds));
                    let (ds, scale) = (square.of(ds), self.scale(width));
                    product((d_q, of_q, Into::Over), scale, ds, of_k.of(&k[at..]), Threads::One);
                    product((d_k, of_k, Into::Over), scale, ds.transposed(), of_q.of(&q[at..]), Threads::One);
                }
            },
        );
        let tensor = |d: Vec<f32>, like: &Tensor| Tensor::from_vec(d, like.dims(), like.device());
        Ok([tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?])
    }
}
