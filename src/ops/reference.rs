//! The plain twins of the fused kernels, composed from candle operations whose gradients are right. They run on every
//! device and in every float type; the kernels are tested against them.

use candle_core::{D, DType, Result, Tensor, bail};

use super::cpu;
use super::segments::Segments;
use super::spec::{Activation, Attention, Contrastive, ContrastiveOutput, Geometry, LocalSimilarity, Maps, Rotary};

/// `x · weightᵀ + bias`. x: (…, in), weight: (out, in), bias: (out).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, inner) = (x.elem_count() / x.dim(D::Minus1)?, x.dim(D::Minus1)?);
    let y = x.reshape((rows, inner))?.matmul(&weight.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let mut shape = x.dims().to_vec();
    *shape.last_mut().expect("x has at least one dimension") = weight.dim(0)?;
    y.reshape(shape)
}

/// Layer normalisation over the last dimension, variance without Bessel's correction. x: (…, width).
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    centred.broadcast_div(&(variance + eps)?.sqrt()?)?.broadcast_mul(weight)?.broadcast_add(bias)
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    candle_nn::ops::softmax(x, D::Minus1)
}

/// An activation of feed-forward layers.
pub fn activation(x: &Tensor, kind: Activation) -> Result<Tensor> {
    match kind {
        Activation::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Tanh => x.tanh(),
        Activation::Silu => x * candle_nn::ops::sigmoid(x)?,
        Activation::Sigmoid => candle_nn::ops::sigmoid(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
    }
}

/// Table, index and mask of a [`super::PositionBias`].
pub type TableBias<'a> = (&'a Tensor, &'a [u32], Option<&'a [f32]>);

/// Attention as [`Attention::apply_biased`] describes it; the bias as its table, index and mask.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: &Attention, bias: Option<TableBias>) -> Result<Tensor> {
    attention_of(q, k, v, (shape, false), bias)
}

/// [`attention`] with products in bf16: on the CPU by rounding.
pub(super) fn attention_in_bf16(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &Attention,
    bias: Option<TableBias>,
) -> Result<Tensor> {
    if !q.device().is_cpu() {
        return attention_of(q, k, v, (shape, true), bias);
    }
    let out = attention_of(&operand(q)?, &operand(k)?, &operand(v)?, (shape, true), bias)?;
    with_rounded_gradient(&out)
}

/// Scores that are worked out at once: 256 MiB of f32.
const SCORES: usize = 1 << 26;

/// With `bf16` products in that type; on the CPU of queries, keys and values that were rounded.
fn attention_of(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (shape, bf16): (&Attention, bool),
    bias: Option<TableBias>,
) -> Result<Tensor> {
    let spans: Vec<_> = shape.queries.spans().zip(shape.keys.spans()).collect();
    let (mut outputs, mut first) = (Vec::new(), 0);
    while let Some(&((q_at, queries), (k_at, keys))) = spans.get(first) {
        let scores = queries * keys;
        // Neighbours of equal lengths together; with masks as far as these go before they begin again.
        let masks = bias.and_then(|(_, _, mask)| mask).map(|mask| mask.len() / scores);
        let most = masks.map_or((SCORES / (shape.heads * scores).max(1)).max(1), |masks| masks - first % masks);
        let alike = |(q, k): &&((usize, usize), (usize, usize))| q.1 == queries && k.1 == keys;
        let items = spans[first..].iter().take(most).take_while(alike).count();
        let added = bias.map(|(table, index, mask)| {
            let added = select_rows(table, index)?.t()?.reshape((1, shape.heads, queries, keys))?;
            let Some(mask) = mask else { return Ok(added) };
            let mask = &mask[first % (mask.len() / scores) * scores..][..items * scores];
            let mask = Tensor::from_slice(mask, (items, 1, queries, keys), q.device())?.to_dtype(q.dtype())?;
            added.broadcast_add(&mask)
        });
        let of_keys = |x: &Tensor| x.narrow(0, k_at, items * keys);
        let of_items = [&q.narrow(0, q_at, items * queries)?, &of_keys(k)?, &of_keys(v)?];
        outputs.push(attention_of_items(of_items, items, (shape, bf16), added.transpose()?.as_ref())?);
        first += items;
    }
    Tensor::cat(&outputs, 0)
}

/// Of items of equal lengths. `added`: what broadcasts to (items, heads, queries, keys).
fn attention_of_items(
    [q, k, v]: [&Tensor; 3],
    items: usize,
    (shape, bf16): (&Attention, bool),
    added: Option<&Tensor>,
) -> Result<Tensor> {
    let ((rows, width), heads) = (q.dims2()?, shape.heads);
    let (queries, keys, head_width) = (rows / items, k.dim(0)? / items, width / heads);
    // (items · tokens, width) → (items, heads, tokens, head_width)
    let split = |x: &Tensor| x.reshape((items, (), heads, head_width))?.transpose(1, 2)?.contiguous();
    let rounds = bf16 && q.device().is_cpu();
    let factor = |x: Tensor| if bf16 && !rounds { x.to_dtype(DType::BF16) } else { Ok(x) };
    let scores = factor(split(q)?)?.matmul(&factor(split(k)?)?.t()?)?.to_dtype(q.dtype())?;
    let scores = (scores * (head_width as f64).powf(-0.5))?;
    let scores = if rounds { with_rounded_gradient(&scores)? } else { scores };
    let scores = added.map_or(Ok(scores.clone()), |added| scores.broadcast_add(added))?;
    let scores = if shape.causal { scores.broadcast_add(&causal_mask(queries, keys, &scores)?)? } else { scores };
    let scores = match shape.window {
        Some(window) => scores.broadcast_add(&window_mask(queries, keys, window, &scores)?)?,
        None => scores,
    };
    let p = softmax(&scores)?;
    let p = if rounds { operand(&p)? } else { p };
    factor(p)?.matmul(&factor(split(v)?)?)?.to_dtype(q.dtype())?.transpose(1, 2)?.reshape((rows, width))
}

/// (queries, keys): 0 where a query may look, −∞ behind it; the last query stands at the last key. Device and type of
/// `like`.
fn causal_mask(queries: usize, keys: usize, like: &Tensor) -> Result<Tensor> {
    let behind = |query: usize, key: usize| if key > query + keys - queries { f32::NEG_INFINITY } else { 0.0 };
    let mask: Vec<f32> = (0..queries * keys).map(|i| behind(i / keys, i % keys)).collect();
    Tensor::from_vec(mask, (queries, keys), like.device())?.to_dtype(like.dtype())
}

/// 0 where a key stands within `window` places of the query, −∞ elsewhere: (queries, keys).
fn window_mask(queries: usize, keys: usize, window: usize, like: &Tensor) -> Result<Tensor> {
    let score = |i: usize| {
        let (query, key) = (i / keys + keys - queries, i % keys);
        if query.abs_diff(key) <= window { 0f32 } else { f32::NEG_INFINITY }
    };
    let scores: Vec<f32> = (0..queries * keys).map(score).collect();
    Tensor::from_vec(scores, (queries, keys), like.device())?.to_dtype(like.dtype())
}

/// [`Rotary::apply`]: x (rows, width) → the same.
pub fn rotary(x: &Tensor, rotary: &Rotary, positions: &[u32]) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = width / rotary.heads / 2;
    let angles: Vec<f32> = positions.iter().flat_map(|&place| rotary.angles(width, place)).collect();
    let angles = Tensor::from_vec(angles, (rows, 1, half), x.device())?.to_dtype(x.dtype())?;
    let (cos, sin) = (angles.cos()?, angles.sin()?);
    let x = x.reshape((rows, rotary.heads, 2, half))?;
    let (x1, x2) = (x.narrow(2, 0, 1)?.squeeze(2)?, x.narrow(2, 1, 1)?.squeeze(2)?);
    let y1 = (x1.broadcast_mul(&cos)? - x2.broadcast_mul(&sin)?)?;
    let y2 = (x2.broadcast_mul(&cos)? + x1.broadcast_mul(&sin)?)?;
    Tensor::stack(&[y1, y2], 2)?.reshape((rows, width))
}

/// Rows of `x`, (count, width), in the order of `rows`.
pub fn select_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    x.index_select(&Tensor::from_slice(rows, rows.len(), x.device())?, 0)
}

/// Rows of `maps` as (items, channels, height, width).
fn planes(x: &Tensor, maps: Maps) -> Result<Tensor> {
    x.reshape((maps.items, maps.height, maps.width, ()))?.permute((0, 3, 1, 2))?.contiguous()
}

/// The way back from [`planes`].
fn rows(x: &Tensor) -> Result<Tensor> {
    let channels = x.dim(1)?;
    x.permute((0, 2, 3, 1))?.contiguous()?.reshape(((), channels))
}

/// A convolution over rows, by candle's; with `bf16` a product in that type: on the CPU by rounding.
pub(super) fn conv2d(x: &Tensor, weight: &Tensor, bf16: bool, shape: &Geometry) -> Result<Tensor> {
    let conv = |x: &Tensor, weight: &Tensor| {
        rows(&planes(x, shape.from)?.conv2d(weight, shape.padding, shape.stride, 1, 1)?)
    };
    match bf16 {
        false => conv(x, weight),
        true if x.device().is_cpu() => with_rounded_gradient(&conv(&operand(x)?, &operand(weight)?)?),
        true => conv(&x.to_dtype(DType::BF16)?, &weight.to_dtype(DType::BF16)?)?.to_dtype(x.dtype()),
    }
}

/// `x` rounded to bf16, as a product in that type reads it; the gradient passes as it is.
pub(super) fn operand(x: &Tensor) -> Result<Tensor> {
    cpu::rounded(&x.detach())? + (x - x.detach())?
}

/// `x`, whose gradient is rounded to bf16: that of a product in that type, where it is an operand of the next two.
pub(super) fn with_rounded_gradient(x: &Tensor) -> Result<Tensor> {
    // The conversions round the gradient on its way back.
    let rounded = cpu::rounded(x)?;
    (&rounded - rounded.detach())? + x.detach()
}

/// [`super::depthwise_conv`].
pub fn depthwise_conv(x: &Tensor, weight: &Tensor, bias: &Tensor, maps: Maps) -> Result<Tensor> {
    let (channels, _, kernel, _) = weight.dims4()?;
    rows(&planes(x, maps)?.conv2d(weight, kernel / 2, 1, 1, channels)?)?.broadcast_add(bias)
}

/// The rows of `to`, (rows, channels), that lie under `place` of a window; far below every number in the margin.
fn window_rows(x: &Tensor, maps: Maps, to: Maps, window: (usize, usize, usize), place: usize) -> Result<Tensor> {
    const LOW: f64 = 1e30;
    let (kernel, stride, padding) = window;
    let pad = |x: &Tensor| x.pad_with_zeros(2, padding, padding)?.pad_with_zeros(3, padding, padding);
    let inside = planes(x, maps)?;
    let padded = (pad(&inside)? + ((pad(&inside.ones_like()?)? - 1.0)? * LOW)?)?;
    let wide = maps.width + 2 * padding;
    let at = |item: usize, y: usize, x: usize| {
        ((item * (maps.height + 2 * padding) + y * stride + place / kernel) * wide + x * stride + place % kernel) as u32
    };
    let index: Vec<u32> = (0..to.rows())
        .map(|row| at(row / (to.height * to.width), row / to.width % to.height, row % to.width))
        .collect();
    select_rows(&rows(&padded)?, &index)
}

/// [`super::max_pool`].
pub fn max_pool(x: &Tensor, maps: Maps, to: Maps, window: (usize, usize, usize)) -> Result<Tensor> {
    let places = (0..window.0 * window.0).map(|place| window_rows(x, maps, to, window, place));
    Tensor::stack(&places.collect::<Result<Vec<_>>>()?, 0)?.max(0)
}

/// [`super::avg_pool`]. candle's own gives pixels that no window sees a gradient.
pub fn avg_pool(x: &Tensor, maps: Maps, to: Maps, kernel: usize) -> Result<Tensor> {
    let places = (0..kernel * kernel).map(|place| window_rows(x, maps, to, (kernel, kernel, 0), place));
    Tensor::stack(&places.collect::<Result<Vec<_>>>()?, 0)?.mean(0)
}

/// [`super::mean_rows`].
pub fn mean_rows(x: &Tensor, segments: &Segments) -> Result<Tensor> {
    let means = segments.spans().map(|(start, length)| x.narrow(0, start, length)?.mean_keepdim(0));
    Tensor::cat(&means.collect::<Result<Vec<_>>>()?, 0)
}

/// [`super::softmax_pool`].
pub fn softmax_pool(x: &Tensor, scores: &Tensor, segments: &Segments) -> Result<Tensor> {
    let sums = segments.spans().map(|(start, length)| {
        softmax(&scores.narrow(0, start, length)?.t()?.contiguous()?)?.matmul(&x.narrow(0, start, length)?)
    });
    Tensor::cat(&sums.collect::<Result<Vec<_>>>()?, 0)
}

/// [`super::max_rows`].
pub fn max_rows(x: &Tensor, segments: &Segments) -> Result<Tensor> {
    let largest = segments.spans().map(|(start, length)| x.narrow(0, start, length)?.max_keepdim(0));
    Tensor::cat(&largest.collect::<Result<Vec<_>>>()?, 0)
}

/// [`super::scale_rows`].
pub fn scale_rows(x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    shape[0] = scale.dim(0)?;
    x.broadcast_mul(&scale.reshape(shape)?)
}

/// [`super::response_norm`].
pub fn response_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, maps: Maps) -> Result<Tensor> {
    let per_item = x.reshape((maps.items, maps.height * maps.width, ()))?;
    let norms = per_item.sqr()?.sum_keepdim(1)?.sqrt()?; // (items, 1, channels)
    let share = norms.broadcast_div(&(norms.mean_keepdim(2)? + RESPONSE_EPS)?)?;
    let y = (per_item.broadcast_mul(&share)?.broadcast_mul(weight)?.broadcast_add(bias)? + &per_item)?;
    y.reshape(x.shape())
}

/// Added to the mean norm of [`super::response_norm`].
pub const RESPONSE_EPS: f64 = 1e-6;

/// The Euclidean norm of a row is taken as at least this.
pub(super) const SHORTEST: f32 = 1e-12;

/// Rows divided by their Euclidean norm, which is taken as at least 1e-12 (`torch.nn.functional.normalize`), so that a
/// zero row stays zero with a finite gradient. x: (…, width).
pub fn l2_normalize(x: &Tensor) -> Result<Tensor> {
    // The bound is put under the root: the root's own gradient at 0 is infinite.
    let norm = x.sqr()?.sum_keepdim(D::Minus1)?.maximum(f64::from(SHORTEST).powi(2))?.sqrt()?;
    x.broadcast_div(&norm)
}

/// [`super::local_similarity`].
pub fn local_similarity(
    patches: &Tensor,
    sentences: &Tensor,
    segments: &Segments,
    options: &LocalSimilarity,
) -> Result<Tensor> {
    let texts = l2_normalize(sentences)?;
    let of_image = |(start, length)| {
        let patches = patches.narrow(0, start, length)?;
        let keys = l2_normalize(&patches)?;
        let shares = softmax(&(texts.matmul(&keys.t()?)? / options.temperature)?)?; // (sentences, patches)
        let sums = shares.matmul(if options.unit_patches { &keys } else { &patches })?;
        (l2_normalize(&sums)? * &texts)?.sum(D::Minus1)
    };
    Tensor::stack(&segments.spans().map(of_image).collect::<Result<Vec<_>>>()?, 0)
}

/// [`super::contrastive`].
pub fn contrastive(image: &Tensor, text: &Tensor, scale: &Tensor, options: &Contrastive) -> Result<ContrastiveOutput> {
    let sims = l2_normalize(image)?.matmul(&l2_normalize(text)?.t()?)?.broadcast_mul(scale)?; // (batch, batch)
    let batch = sims.dim(0)?;
    let own = Tensor::eye(batch, sims.dtype(), sims.device())?;
    let eps = options.label_smoothing;
    let targets = ((&own * (1.0 - eps))? + eps / batch as f64)?;
    let mut total: Option<Tensor> = None;
    let (mut hard, mut right, mut directions) = (0.0, 0, 0);
    for (asked, sims) in [(options.image_to_text, sims.clone()), (options.text_to_image, sims.t()?.contiguous()?)] {
        if !asked {
            continue;
        }
        let log_q = candle_nn::ops::log_softmax(&sims, D::Minus1)?;
        let loss = ((&log_q * &targets)?.sum_all()?.neg()? / batch as f64)?;
        hard -= (log_q.detach() * &own)?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()? / batch as f64;
        let rows: Vec<Vec<f64>> = sims.to_dtype(DType::F64)?.to_vec2()?;
        let best = |(i, row): &(usize, &Vec<f64>)| row.iter().enumerate().all(|(k, v)| k == *i || *v < row[*i]);
        right += rows.iter().enumerate().filter(best).count();
        directions += 1;
        total = Some(match total {
            Some(sum) => (sum + loss)?,
            None => loss,
        });
    }
    let Some(total) = total else { bail!("contrastive: no direction is asked for") };
    let n = f64::from(directions);
    let accuracy = right as f64 / (batch as f64 * n);
    Ok(ContrastiveOutput { loss: (total / n)?, loss_hard: hard / n, accuracy })
}
