//! Global response normalisation, of ConvNeXt V2 (arXiv 2301.00808).

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::cpu;
use super::reference::{self, RESPONSE_EPS};
use super::spec::Maps;
use super::tape::{Value, composed};

/// `x · share · weight + bias + x`, where a channel's share is its norm over the item's pixels, divided by the mean
/// norm of all channels plus 1e-6. x: (rows of `maps`, channels), weight and bias: (channels).
///
/// # Errors
/// Shapes that do not fit.
pub fn response_norm(x: &Value, maps: Maps, weight: &Value, bias: &Value) -> Result<Value> {
    let (rows, channels) = x.tensor().dims2()?;
    if rows != maps.rows() || weight.tensor().dims() != [channels] || bias.tensor().dims() != [channels] {
        bail!("response_norm: ({rows}, {channels}) for {maps:?}, weight {:?}", weight.tensor().dims());
    }
    let x = &x.widened()?;
    if !cpu::has_kernels(x.tensor()) {
        return composed(&[x, weight, bias], move |t| reference::response_norm(t[0], t[1], t[2], maps));
    }
    let per_item = maps.height * maps.width * channels;
    let (xs, w, b) = (cpu::read(x.tensor())?, cpu::read(weight.tensor())?, cpu::read(bias.tensor())?);
    let mut y = vec![0f32; xs.len()];
    y.par_chunks_mut(per_item).zip(xs.par_chunks(per_item)).for_each(|(y, x)| {
        let scale: Vec<f32> = Norms::of(x, channels).shares().zip(w.iter()).map(|(s, w)| 1.0 + s * w).collect();
        for (y, x) in y.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
            y.iter_mut().zip(x).zip(&scale).zip(b.iter()).for_each(|(((y, x), s), b)| *y = x * s + b);
        }
    });
    drop((xs, w, b));
    let y = Tensor::from_vec(y, (rows, channels), x.tensor().device())?;
    let inputs = [x, weight, bias];
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let mut dx = vec![0f32; rows * channels];
        let parts: Vec<(Vec<f32>, Vec<f32>)> = {
            let (xs, gs, w) = (cpu::read(x.tensor())?, cpu::read(&grad)?, cpu::read(weight.tensor())?);
            let items = dx.par_chunks_mut(per_item).zip(xs.par_chunks(per_item)).zip(gs.par_chunks(per_item));
            items.map(|((dx, x), g)| backward(x, g, &w, dx)).collect()
        };
        if x.wants_grad() {
            x.add_grad(Tensor::from_vec(dx, (rows, channels), grad.device())?)?;
        }
        let (dw, db): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        for (value, parts) in [(&weight, dw), (&bias, db)] {
            let mut sum = vec![0f32; channels];
            parts.iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(s, p)| *s += p));
            value.add_grad(Tensor::from_vec(sum, channels, grad.device())?)?;
        }
        Ok(())
    }))
}

/// Each channel's norm over one item's pixels, and the mean of the norms plus epsilon.
struct Norms {
    norms: Vec<f32>,
    mean: f32,
}

impl Norms {
    fn of(x: &[f32], channels: usize) -> Self {
        let mut sums = vec![0f32; channels];
        x.chunks_exact(channels).for_each(|x| sums.iter_mut().zip(x).for_each(|(s, x)| *s += x * x));
        let norms: Vec<f32> = sums.into_iter().map(f32::sqrt).collect();
        let mean = norms.iter().sum::<f32>() / channels as f32 + RESPONSE_EPS as f32;
        Self { norms, mean }
    }

    fn shares(&self) -> impl Iterator<Item = f32> {
        self.norms.iter().map(|norm| norm / self.mean)
    }
}

/// Writes the input's gradient of one item; returns those of weight and bias.
fn backward(x: &[f32], g: &[f32], weight: &[f32], dx: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = weight.len();
    let norms = Norms::of(x, channels);
    let (mut gx, mut db) = (vec![0f32; channels], vec![0f32; channels]);
    for (x, g) in x.chunks_exact(channels).zip(g.chunks_exact(channels)) {
        gx.iter_mut().zip(x).zip(g).for_each(|((s, x), g)| *s += x * g);
        db.iter_mut().zip(g).for_each(|(s, g)| *s += g);
    }
    let dw = gx.iter().zip(norms.shares()).map(|(gx, share)| gx * share).collect();
    let d_share: Vec<f32> = gx.iter().zip(weight).map(|(gx, w)| gx * w).collect();
    // Every norm is part of the mean that all shares are divided by.
    let through_mean: f32 = d_share.iter().zip(norms.shares()).map(|(d, share)| d * share).sum::<f32>();
    let through_mean = through_mean / (norms.mean * channels as f32);
    let (scale, pull): (Vec<f32>, Vec<f32>) = (0..channels)
        .map(|c| {
            let d_norm = d_share[c] / norms.mean - through_mean;
            // A norm of 0 has no direction: its gradient is taken as 0, as in PyTorch.
            let pull = if norms.norms[c] > 0.0 { d_norm / norms.norms[c] } else { 0.0 };
            (1.0 + weight[c] * norms.norms[c] / norms.mean, pull)
        })
        .unzip();
    for ((dx, x), g) in dx.chunks_exact_mut(channels).zip(x.chunks_exact(channels)).zip(g.chunks_exact(channels)) {
        for c in 0..channels {
            dx[c] = g[c] * scale[c] + x[c] * pull[c];
        }
    }
    (dw, db)
}
