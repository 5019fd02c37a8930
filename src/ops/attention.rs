//! Scaled dot-product attention over rows as the projections give them: no copies for heads, no matrix of scores kept
//! for the backward pass (it is computed again, as in FlashAttention, arXiv 2205.14135), no padding.

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu::{self, Either};
use super::cuda;
use super::gemm::{Epilogue, Factor, Into, Layout, Output, Threads, product, product_bf16};
use super::position_bias::{Expanded, PositionBias};
use super::profile::{self, Part};
use super::reference;
use super::relevance::Relevance;
use super::segments::Segments;
use super::softmax::{softmax_row, softmax_row_bwd};
use super::spec::Attention;
use super::tape::{Value, composed, in_bf16};

/// First row of an item, and how many.
type Span = (usize, usize);

/// Of queries, of keys and of values of an item.
type Gradients<'a> = (&'a mut [f32], (&'a mut [f32], &'a mut [f32]));

/// Items whose bias gradients are added up by one task.
const ITEMS_PER_PARTIAL: usize = 4;

/// What the loops read, and how products are worked out.
struct Inputs<'a> {
    q: Either<'a>,
    k: Either<'a>,
    v: Either<'a>,
    width: usize,
    bias: Option<Expanded>,
    in_bf16: bool,
}

impl Inputs<'_> {
    /// scale · a · b, by the calling thread.
    fn multiply(&self, output: Output, scale: f32, a: Factor, b: Factor) {
        match (self.in_bf16, output, a, b) {
            (false, Output::F32(numbers, layout, into), Factor::F32(a), Factor::F32(b)) => {
                product((numbers, layout, into), scale, a, b, Threads::One);
            }
            (_, output, a, b) => {
                product_bf16(output, a, b, Epilogue { scale, ..Epilogue::default() }, Threads::One);
            }
        }
    }
}

fn over(numbers: &mut [f32], layout: Layout) -> Output<'_> {
    Output::F32(numbers, layout, Into::Over)
}

fn factor(numbers: Either, layout: Layout) -> Factor {
    match numbers {
        Either::F32(numbers) => layout.of(numbers).into(),
        Either::Bf16(numbers) => layout.of(numbers).into(),
    }
}

/// One head of one item.
struct Head {
    item: usize,
    number: usize,
    /// First number of its part of the item's rows.
    at: usize,
    /// The same from the start of all queries, and of all keys.
    first_query: usize,
    first_key: usize,
    /// How its queries lie, and its keys.
    of_q: Layout,
    of_k: Layout,
    /// (queries, keys)
    square: Layout,
}

impl Attention {
    /// All rows of each item look at all rows of the same item, or with `causal` at those up to themselves.
    pub fn within(segments: &Segments, heads: usize, causal: bool) -> Self {
        Self { heads, queries: segments.clone(), keys: segments.clone(), causal, window: None }
    }

    /// q: (query rows, width), k and v: (key rows, width) → (query rows, width), of the type of v. Scores are scaled
    /// by 1 / √(width / heads).
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
        let (this, bias) = (self.clone(), bias.cloned());
        let inputs: Vec<&Value> = [q, k, v].into_iter().chain(bias.as_ref().map(|b| &b.table)).collect();
        if bias.is_none() && cuda::has_kernels(q.tensor()) && cuda::fits(self, q.tensor().dim(1)?) {
            return cuda::attention(self, q, k, v);
        }
        let in_bf16 = in_bf16(&inputs);
        if ![q, k, v].iter().all(|x| cpu::has_kernels(x.tensor()) || in_bf16 && cpu::is_bf16(x.tensor())) {
            let bias = bias.clone();
            let in_bf16 = in_bf16 && (q.tensor().device().is_cpu() || cuda::uses_tensor_cores());
            let twin = if in_bf16 { reference::attention_in_bf16 } else { reference::attention };
            let y = composed(&inputs, move |t| {
                let bias = bias.as_ref().map(|b| (t[3], &*b.index, b.mask.as_deref()));
                twin(t[0], t[1], t[2], &this, bias)
            })?;
            return y.as_operand();
        }
        let y = self.forward([q, k, v], bias.as_ref(), in_bf16)?;
        let (q, k, v, kept) = (q.clone(), k.clone(), v.clone(), bias.clone());
        Ok(Value::record(y, &inputs, move |grad| {
            q.leave_relevance(|| this.relevance([&q, &k, &v], &grad, kept.as_ref(), in_bf16))?;
            let [dq, dk, dv] = this.backward([&q, &k, &v], &grad, kept.as_ref(), in_bf16)?;
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

    /// The heads of one item, whose queries and keys are these rows (first, how many).
    fn heads_of(
        &self,
        item: usize,
        ((first_query, queries), (first_key, keys)): (Span, Span),
        width: usize,
    ) -> impl Iterator<Item = Head> {
        let head_width = width / self.heads;
        (0..self.heads).map(move |number| {
            let at = number * head_width;
            Head {
                item,
                number,
                at,
                first_query: first_query * width + at,
                first_key: first_key * width + at,
                of_q: Layout::part(queries, head_width, width),
                of_k: Layout::part(keys, head_width, width),
                square: Layout::plain(queries, keys),
            }
        })
    }

    /// Rows of queries and of keys of each item.
    fn spans(&self) -> Vec<(Span, Span)> {
        self.queries.spans().zip(self.keys.spans()).collect()
    }

    fn scale(&self, width: usize) -> f32 {
        ((width / self.heads) as f32).sqrt().recip()
    }

    fn forward(&self, [q, k, v]: [&Value; 3], bias: Option<&PositionBias>, in_bf16: bool) -> Result<Tensor> {
        let (shape, device) = (q.tensor().dims(), q.tensor().device());
        let [q, k, v] = [q, k, v].map(|x| cpu::read_either(x.tensor()));
        let (q, k, v) = (q?, k?, v?);
        let bias = bias.map(PositionBias::expand).transpose()?;
        let inputs = Inputs { q: q.get(), k: k.get(), v: v.get(), width: shape[1], bias, in_bf16 };
        let numbers = shape[0] * shape[1];
        if let Either::Bf16(_) = inputs.v {
            let mut out = overwritten::<bf16>(numbers);
            self.attend(&inputs, &mut out, |numbers, layout| Output::Bf16(numbers, layout));
            return Tensor::from_vec(out, shape, device);
        }
        let mut out = overwritten::<f32>(numbers);
        self.attend(&inputs, &mut out, over);
        Tensor::from_vec(out, shape, device)
    }

    fn attend<T: Send>(&self, inputs: &Inputs, out: &mut [T], output: impl Fn(&mut [T], Layout) -> Output<'_> + Sync) {
        let items = self.spans().into_par_iter().zip(self.queries.split_mut(out, inputs.width));
        items.enumerate().for_each_init(Vec::new, |p, (i, (spans, out))| {
            for head in self.heads_of(i, spans, inputs.width) {
                self.probabilities(inputs, &head, p);
                let v = factor(inputs.v.from(head.first_key), head.of_k);
                inputs.multiply(output(&mut out[head.at..], head.of_q), 1.0, head.square.of(p).into(), v);
            }
        });
    }

    /// softmax(q · kᵀ · scale) of one head into `p`, (queries, keys), with the bias on the scores.
    fn probabilities(&self, inputs: &Inputs, head: &Head, p: &mut Vec<f32>) {
        let (queries, keys) = (head.square.rows, head.square.columns);
        p.resize(queries * keys, 0.0);
        let q = factor(inputs.q.from(head.first_query), head.of_q);
        let k = factor(inputs.k.from(head.first_key), head.of_k).transposed();
        inputs.multiply(over(p, head.square), self.scale(inputs.width), q, k);
        if let Some(bias) = &inputs.bias {
            bias.add_to(p, head.item, head.number);
        }
        for (i, row) in p.chunks_exact_mut(keys).enumerate() {
            // More queries than keys are allowed where neither depends on the place.
            let place = (i + keys).saturating_sub(queries);
            let mut seen = if self.causal { place + 1 } else { keys };
            if let Some(window) = self.window {
                row[..place.saturating_sub(window).min(keys)].fill(f32::NEG_INFINITY);
                seen = seen.min(place + window + 1);
            }
            softmax_row(row, seen);
        }
    }

    /// Gradient × attention of the first item.
    fn relevance(
        &self,
        [q, k, v]: [&Value; 3],
        grad: &Tensor,
        bias: Option<&PositionBias>,
        in_bf16: bool,
    ) -> Result<Relevance> {
        let width = q.tensor().dim(1)?;
        let (gs, vs) = (grad.to_dtype(DType::F32)?, v.tensor().to_dtype(DType::F32)?);
        let (gs, vs) = (cpu::read(&gs)?, cpu::read(&vs)?);
        let [q, k, v] = [q, k, v].map(|x| cpu::read_either(x.tensor()));
        let (q, k, v) = (q?, k?, v?);
        let bias = bias.map(PositionBias::expand).transpose()?;
        let inputs = Inputs { q: q.get(), k: k.get(), v: v.get(), width, bias, in_bf16 };
        let Some(&spans) = self.spans().first() else { bail!("attention: no item") };
        let ((_, queries), (_, keys)) = spans;
        let mut p = Vec::new();
        let mut values = vec![0f32; queries * keys];
        for head in self.heads_of(0, spans, width) {
            self.probabilities(&inputs, &head, &mut p);
            for (i, (value, p)) in values.iter_mut().zip(&p).enumerate() {
                let (query, key) = (i / keys * width + head.at, i % keys * width + head.at);
                let slope: f32 = (0..width / self.heads).map(|d| gs[query + d] * vs[key + d]).sum();
                *value += (p * slope).max(0.0) / self.heads as f32;
            }
        }
        Ok(Relevance { queries, keys, values })
    }

    /// The gradients of q, k and v, in f32; that of the bias goes to its table.
    fn backward(
        &self,
        [q, k, v]: [&Value; 3],
        grad: &Tensor,
        bias: Option<&PositionBias>,
        in_bf16: bool,
    ) -> Result<[Tensor; 3]> {
        let (width, device) = (q.tensor().dim(1)?, grad.device());
        let (of_queries, of_keys) = (q.tensor().dims(), k.tensor().dims());
        let learnt = bias.filter(|b| b.table.wants_grad());
        let expanded = bias.map(PositionBias::expand).transpose()?;
        let (gs, [q, k, v]) = (cpu::read_either(grad)?, [q, k, v].map(|x| cpu::read_either(x.tensor())));
        let (q, k, v) = (q?, k?, v?);
        let inputs = Inputs { q: q.get(), k: k.get(), v: v.get(), width, bias: expanded, in_bf16 };
        let grad = gs.get();
        let (queries, keys) = (of_queries[0] * width, of_keys[0] * width);
        let (mut dq, mut dk, mut dv) = (overwritten(queries), overwritten(keys), overwritten(keys));
        let to_keys = self.keys.split_mut(&mut dk, width).into_par_iter().zip(self.keys.split_mut(&mut dv, width));
        let outputs = self.queries.split_mut(&mut dq, width).into_par_iter().zip(to_keys);
        // Gradients of the bias, added up in parts whose size does not depend on the number of threads.
        let sums = learnt.map_or(0, |b| self.heads * b.index.len());
        let items = self.spans().into_par_iter().zip(outputs).enumerate();
        let of_item = |mut sums: Vec<f32>, (i, (spans, (dq, (dk, dv)))): (usize, (_, Gradients))| {
            let (mut p, mut ds) = (Vec::new(), Vec::new());
            for head in self.heads_of(i, spans, width) {
                self.probabilities(&inputs, &head, &mut p);
                let (d_q, d_k, d_v) = (&mut dq[head.at..], &mut dk[head.at..], &mut dv[head.at..]);
                self.backward_of_head(&inputs, &head, grad, (&p, &mut ds), [d_q, d_k, d_v]);
                if !sums.is_empty() {
                    let sums = &mut sums[head.number * ds.len()..(head.number + 1) * ds.len()];
                    sums.iter_mut().zip(ds.iter()).for_each(|(sum, d)| *sum += d);
                }
            }
            sums
        };
        let in_part = if sums == 0 { 1 } else { ITEMS_PER_PARTIAL };
        let parts: Vec<Vec<f32>> = items.fold_chunks(in_part, || vec![0f32; sums], of_item).collect();
        if let Some(bias) = learnt {
            let mut total = vec![0f32; sums];
            parts.iter().for_each(|part| total.iter_mut().zip(part).for_each(|(t, p)| *t += p));
            bias.add_grad(&total)?;
        }
        Ok([
            Tensor::from_vec(dq, of_queries, device)?,
            Tensor::from_vec(dk, of_keys, device)?,
            Tensor::from_vec(dv, of_keys, device)?,
        ])
    }

    /// The gradients of one head's q, k and v, and in `ds` that of its scores.
    fn backward_of_head(
        &self,
        inputs: &Inputs,
        head: &Head,
        grad: Either,
        (p, ds): (&[f32], &mut Vec<f32>),
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let Head { of_q, of_k, square, .. } = *head;
        let g = factor(grad.from(head.first_query), of_q);
        let v = factor(inputs.v.from(head.first_key), of_k);
        ds.resize(p.len(), 0.0);
        inputs.multiply(over(dv, of_k), 1.0, square.of(p).transposed().into(), g);
        inputs.multiply(over(ds, square), 1.0, g, v.transposed());
        p.chunks_exact(square.columns).zip(ds.chunks_exact_mut(square.columns)).for_each(|(p, ds)| {
            softmax_row_bwd(p, ds);
        });
        let (ds, scale) = (square.of(ds), self.scale(inputs.width));
        inputs.multiply(over(dq, of_q), scale, ds.into(), factor(inputs.k.from(head.first_key), of_k));
        let q = factor(inputs.q.from(head.first_query), of_q);
        inputs.multiply(over(dk, of_k), scale, ds.transposed().into(), q);
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::tape::Tape;
    use super::*;

    fn wave(count: usize, phase: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.73 + phase).sin()).collect()
    }

    fn rounded(x: f64) -> f64 {
        bf16::from_f32(x as f32).to_f64()
    }

    /// Output and gradients of q, k and v in f64, with operands rounded where products in bf16 round them.
    fn exact(shape: &Attention, [q, k, v, grad]: [&[f32]; 4], width: usize) -> [Vec<f64>; 4] {
        let head_width = width / shape.heads;
        let scale = (head_width as f64).powf(-0.5);
        let [q, k, v, g] = [q, k, v, grad].map(|x| x.iter().map(|&x| rounded(x.into())).collect::<Vec<f64>>());
        let mut all = [q.len(), q.len(), k.len(), k.len()].map(|n| vec![0.0; n]);
        for ((first_q, queries), (first_k, keys)) in shape.spans() {
            for (h, i) in (0..shape.heads).flat_map(|h| (0..queries).map(move |i| (h, i))) {
                let at = |row: usize| row * width + h * head_width;
                let dot =
                    |a: &[f64], i, b: &[f64], j| (0..head_width).map(|d| a[at(i) + d] * b[at(j) + d]).sum::<f64>();
                let seen = if shape.causal { i + 1 + keys - queries } else { keys };
                let (i, rows) = (first_q + i, first_k..first_k + seen);
                let e: Vec<f64> = rows.clone().map(|j| (scale * dot(&q, i, &k, j)).exp()).collect();
                let p: Vec<f64> = e.iter().map(|x| x / e.iter().sum::<f64>()).collect();
                let dp: Vec<f64> = rows.clone().map(|j| dot(&g, i, &v, j)).collect();
                let mean: f64 = p.iter().zip(&dp).map(|(p, d)| p * d).sum();
                for ((p, dp), j) in p.iter().zip(&dp).zip(rows) {
                    let (ds, p) = (rounded(p * (dp - mean)), rounded(*p));
                    for d in 0..head_width {
                        let (query, key) = (at(i) + d, at(j) + d);
                        all[0][query] += p * v[key];
                        all[1][query] += scale * ds * k[key];
                        all[2][key] += scale * ds * q[query];
                        all[3][key] += p * g[query];
                    }
                }
            }
        }
        all
    }

    /// |a − b| / |b|
    fn distance(a: &Tensor, b: &[f64]) -> f64 {
        let a = a.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(a.len(), b.len());
        let square = |x: f64| x * x;
        let apart: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
        (apart / b.iter().copied().map(square).sum::<f64>()).sqrt()
    }

    #[test]
    fn products_in_bf16_agree_with_f64_of_rounded_operands() {
        let width = 24;
        let segments = Segments::of_lengths([5, 37, 1]);
        let (rows, device) = (segments.rows(), &Device::Cpu);
        let numbers = [0.1, 0.5, 0.9, 1.3].map(|phase| wave(rows * width, phase));
        for (causal, dtype) in [(false, DType::F32), (true, DType::BF16)] {
            let shape = Attention::within(&segments, 3, causal);
            let exact = exact(&shape, [0, 1, 2, 3].map(|i| &*numbers[i]), width);
            let run = |dtype: DType, products: DType| {
                let tensor = |x: &Vec<f32>| Tensor::from_slice(x, (rows, width), device).unwrap();
                let tape = Tape::new(3);
                let leaf =
                    |i: usize| tape.leaf(i, tensor(&numbers[i]).to_dtype(dtype).unwrap()).with_products(products);
                let y = shape.apply(&leaf(0), &leaf(1), &leaf(2)).unwrap();
                tape.backward([(&y, tensor(&numbers[3]))], &mut |_| Ok(())).unwrap();
                let grads = [0, 1, 2].map(|i| tape.take_grad(i).unwrap().into_dense().unwrap());
                (y, grads)
            };
            let ((y, grads), (_, grads_f32)) = (run(dtype, DType::BF16), run(DType::F32, DType::F32));
            assert!(y.tensor().dtype() == dtype && y.products() == DType::BF16);
            // A result in bf16 is rounded once more.
            let allowed = if dtype == DType::BF16 { 3e-3 } else { 1e-4 };
            assert!(distance(y.tensor(), &exact[0]) < allowed, "{dtype:?}: {}", distance(y.tensor(), &exact[0]));
            for i in 0..3 {
                // A probability that is all but half way between two numbers may be rounded to the other one.
                let ours = distance(&grads[i], &exact[i + 1]);
                assert!(ours < 2e-4, "{dtype:?}, gradient {i}: {ours}");
                let without = distance(&grads_f32[i], &exact[i + 1]);
                assert!(without < 1e-2 && without > 5e-4, "{dtype:?}, gradient {i} in f32: {without}");
            }
        }
    }
}
