//! Feature maps as rows, and what is done to them beside convolution: pooling and depthwise kernels.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;
use super::cuda;
use super::profile::{self, Part};
use super::reference;
use super::segments::Segments;
use super::simd::vectorised;
use super::spec::Maps;
use super::sum::column_sum;
use super::tape::{Value, composed};

impl Maps {
    fn check(&self, x: &Tensor) -> Result<usize> {
        match x.dims2()? {
            (rows, channels) if rows == self.rows() => Ok(channels),
            (rows, _) => bail!("{rows} rows for {self:?}"),
        }
    }
}

/// The largest of each window of `kernel` × `kernel` pixels, each channel for itself; the margin of `padding` pixels
/// counts as −∞. x: (rows of `maps`, channels).
///
/// # Errors
/// Shapes that do not fit.
pub fn max_pool(x: &Value, maps: Maps, kernel: usize, stride: usize, padding: usize) -> Result<(Value, Maps)> {
    let _timed = profile::enter(Part::Convolution);
    let channels = maps.check(x.tensor())?;
    let x = &x.widened()?;
    let side = |n: usize| (n + 2 * padding - kernel) / stride + 1;
    if kernel > maps.height + 2 * padding || kernel > maps.width + 2 * padding || padding >= kernel {
        bail!("max_pool: a kernel of {kernel} over {maps:?} with margins of {padding}");
    }
    let to = Maps { items: maps.items, height: side(maps.height), width: side(maps.width) };
    if !cpu::has_kernels(x.tensor()) {
        let twin = move |t: &[&Tensor]| reference::max_pool(t[0], maps, to, (kernel, stride, padding));
        return Ok((composed(&[x], twin)?, to));
    }
    let xs = cpu::read(x.tensor())?;
    let mut y = overwritten(to.rows() * channels);
    let mut chosen = vec![0u32; y.len()];
    let outputs = y.par_chunks_mut(channels).zip(chosen.par_chunks_mut(channels)).enumerate();
    outputs.for_each(|(row, (y, chosen))| {
        let (item, at) = (row / (to.height * to.width), row % (to.height * to.width));
        let (top, left) = ((at / to.width * stride) as isize, (at % to.width * stride) as isize);
        y.fill(f32::NEG_INFINITY);
        for place in 0..kernel * kernel {
            let line = top + (place / kernel) as isize - padding as isize;
            let column = left + (place % kernel) as isize - padding as isize;
            if line < 0 || column < 0 || line >= maps.height as isize || column >= maps.width as isize {
                continue;
            }
            let pixel = (item * maps.height + line as usize) * maps.width + column as usize;
            let x = &xs[pixel * channels..(pixel + 1) * channels];
            for ((y, chosen), x) in y.iter_mut().zip(chosen.iter_mut()).zip(x) {
                // A NaN goes through, as in PyTorch.
                if *x > *y || x.is_nan() {
                    (*y, *chosen) = (*x, pixel as u32);
                }
            }
        }
    });
    drop(xs);
    let y = Tensor::from_vec(y, (to.rows(), channels), x.tensor().device())?;
    let kept = x.clone();
    let per_item = (to.height * to.width * channels, maps.height * maps.width * channels);
    let output = Value::record(y, &[x], move |grad| {
        let mut dx = vec![0f32; maps.rows() * channels];
        let gs = cpu::read(&grad)?;
        let items = dx.par_chunks_mut(per_item.1).zip(gs.par_chunks(per_item.0)).zip(chosen.par_chunks(per_item.0));
        items.enumerate().for_each(|(item, ((dx, gs), chosen))| {
            let first = item * maps.height * maps.width;
            for (i, (g, pixel)) in gs.iter().zip(chosen).enumerate() {
                dx[(*pixel as usize - first) * channels + i % channels] += g;
            }
        });
        kept.add_grad(Tensor::from_vec(dx, (maps.rows(), channels), grad.device())?)
    });
    Ok((output, to))
}

/// The mean of each window of `kernel` × `kernel` pixels that do not overlap; what is left over at the edge is not
/// seen. x: (rows of `maps`, channels).
///
/// # Errors
/// Shapes that do not fit.
pub fn avg_pool(x: &Value, maps: Maps, kernel: usize) -> Result<(Value, Maps)> {
    let _timed = profile::enter(Part::Convolution);
    let channels = maps.check(x.tensor())?;
    let x = &x.widened()?;
    let to = Maps { items: maps.items, height: maps.height / kernel, width: maps.width / kernel };
    if to.rows() == 0 {
        bail!("avg_pool: a kernel of {kernel} over {maps:?}");
    }
    if !cpu::has_kernels(x.tensor()) {
        return Ok((composed(&[x], move |t| reference::avg_pool(t[0], maps, to, kernel))?, to));
    }
    let share = 1.0 / (kernel * kernel) as f32;
    // The pixels under output `row`.
    let under = move |row: usize| {
        let (item, at) = (row / (to.height * to.width), row % (to.height * to.width));
        let (top, left) = (at / to.width * kernel, at % to.width * kernel);
        (0..kernel * kernel).map(move |p| (item * maps.height + top + p / kernel) * maps.width + left + p % kernel)
    };
    let mut y = vec![0f32; to.rows() * channels];
    let xs = cpu::read(x.tensor())?;
    y.par_chunks_mut(channels).enumerate().for_each(|(row, y)| {
        for pixel in under(row) {
            y.iter_mut().zip(&xs[pixel * channels..(pixel + 1) * channels]).for_each(|(y, x)| *y += share * x);
        }
    });
    drop(xs);
    let y = Tensor::from_vec(y, (to.rows(), channels), x.tensor().device())?;
    let kept = x.clone();
    let output = Value::record(y, &[x], move |grad| {
        let mut dx = vec![0f32; maps.rows() * channels];
        let gs = cpu::read(&grad)?;
        for (row, g) in gs.chunks_exact(channels).enumerate() {
            for pixel in under(row) {
                dx[pixel * channels..(pixel + 1) * channels].iter_mut().zip(g).for_each(|(d, g)| *d = share * g);
            }
        }
        kept.add_grad(Tensor::from_vec(dx, (maps.rows(), channels), grad.device())?)
    });
    Ok((output, to))
}

/// The mean over the rows of each item. x: (rows, width) → (items, width).
///
/// # Errors
/// Shapes that do not fit, an item without rows.
pub fn mean_rows(x: &Value, segments: &Segments) -> Result<Value> {
    let _timed = profile::enter(Part::Convolution);
    let (rows, width) = x.tensor().dims2()?;
    if rows != segments.rows() || segments.spans().any(|(_, length)| length == 0) {
        bail!("mean_rows: {rows} rows for {segments:?}");
    }
    let (x, segments) = (&x.widened()?, segments.clone());
    if !cpu::has_kernels(x.tensor()) {
        return composed(&[x], move |t| reference::mean_rows(t[0], &segments));
    }
    let means: Vec<Vec<f32>> = segments
        .split(&cpu::read(x.tensor())?, width)
        .into_par_iter()
        .map(|item| {
            let share = width as f32 / item.len() as f32;
            column_sum(item, width).into_iter().map(|sum| sum * share).collect()
        })
        .collect();
    let y = Tensor::from_vec(means.concat(), (segments.items(), width), x.tensor().device())?;
    let kept = x.clone();
    Ok(Value::record(y, &[x], move |grad| {
        let mut dx = vec![0f32; segments.rows() * width];
        let gs = cpu::read(&grad)?;
        segments.split_mut(&mut dx, width).into_par_iter().zip(gs.par_chunks(width)).for_each(|(dx, g)| {
            let share = width as f32 / dx.len() as f32;
            dx.chunks_exact_mut(width).for_each(|dx| dx.iter_mut().zip(g).for_each(|(d, g)| *d = share * g));
        });
        kept.add_grad(Tensor::from_vec(dx, (segments.rows(), width), grad.device())?)
    }))
}

vectorised! {
    fn multiply_add(y: &mut [f32], x: &[f32], w: &[f32]) {
        y.iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y += x * w);
    }
}

/// Each channel's own kernel over its own map, stride 1, margins of half the kernel in zeros. x: (rows of `maps`,
/// channels), weight: (channels, 1, kernel, kernel), bias: (channels).
///
/// # Errors
/// Shapes that do not fit, an even kernel.
pub fn depthwise_conv(x: &Value, maps: Maps, weight: &Value, bias: &Value) -> Result<Value> {
    let _timed = profile::enter(Part::Convolution);
    let channels = maps.check(x.tensor())?;
    let x = &x.widened()?;
    let (outer, one, kernel, other) = weight.tensor().dims4()?;
    if outer != channels || one != 1 || kernel != other || kernel % 2 == 0 {
        bail!("depthwise_conv: {channels} channels and a weight of {:?}", weight.tensor().dims());
    }
    if !cpu::has_kernels(x.tensor()) {
        cuda::check_convolutions(x.tensor())?;
        return composed(&[x, weight, bias], move |t| reference::depthwise_conv(t[0], t[1], t[2], maps));
    }
    let shape = Depthwise { maps, channels, kernel };
    let w = by_place(&cpu::read(weight.tensor())?, channels);
    let mut y = overwritten(maps.rows() * channels);
    let (xs, bs) = (cpu::read(x.tensor())?, cpu::read(bias.tensor())?);
    y.par_chunks_mut(channels).for_each(|row| row.copy_from_slice(&bs));
    shape.slide(&mut y, &xs, &w, false);
    drop((xs, bs));
    let y = Tensor::from_vec(y, (maps.rows(), channels), x.tensor().device())?;
    let inputs = [x, weight, bias];
    let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let gs = cpu::read(&grad)?;
        if bias.wants_grad() {
            bias.add_grad(Tensor::from_vec(column_sum(&gs, channels), channels, grad.device())?)?;
        }
        if weight.wants_grad() {
            let dw = shape.weight_grad(&cpu::read(x.tensor())?, &gs);
            weight.add_grad(Tensor::from_vec(dw, weight.tensor().dims(), grad.device())?)?;
        }
        if x.wants_grad() {
            let mut dx = vec![0f32; gs.len()];
            shape.slide(&mut dx, &gs, &w, true);
            x.add_grad(Tensor::from_vec(dx, (maps.rows(), channels), grad.device())?)?;
        }
        Ok(())
    }))
}

/// (channels, places) → (places, channels)
fn by_place(weight: &[f32], channels: usize) -> Vec<f32> {
    let places = weight.len() / channels;
    (0..weight.len()).map(|i| weight[i % channels * places + i / channels]).collect()
}

#[derive(Clone, Copy)]
struct Depthwise {
    maps: Maps,
    channels: usize,
    kernel: usize,
}

impl Depthwise {
    /// The pixel of the same item that `place` of the kernel covers at `row`, or none in the margin.
    #[inline(always)]
    fn under(&self, row: usize, place: usize) -> Option<usize> {
        let (line, column) = (row / self.maps.width % self.maps.height, row % self.maps.width);
        let half = self.kernel / 2;
        let y = (line + place / self.kernel).checked_sub(half).filter(|&y| y < self.maps.height)?;
        let x = (column + place % self.kernel).checked_sub(half).filter(|&x| x < self.maps.width)?;
        Some(row - line * self.maps.width - column + y * self.maps.width + x)
    }

    /// Adds the kernel's products to `y`; mirrored, it takes gradients back.
    fn slide(&self, y: &mut [f32], x: &[f32], weight: &[f32], mirrored: bool) {
        let (c, places) = (self.channels, self.kernel * self.kernel);
        y.par_chunks_mut(c).enumerate().for_each(|(row, y)| {
            for place in 0..places {
                if let Some(pixel) = self.under(row, place) {
                    let w = if mirrored { places - 1 - place } else { place };
                    multiply_add(y, &x[pixel * c..(pixel + 1) * c], &weight[w * c..(w + 1) * c]);
                }
            }
        });
    }

    /// (channels, places), added up item by item in their order.
    fn weight_grad(&self, x: &[f32], grad: &[f32]) -> Vec<f32> {
        let (c, places) = (self.channels, self.kernel * self.kernel);
        let per_item = self.maps.height * self.maps.width;
        let of_item = |item: usize| {
            let mut sums = vec![0f32; places * c];
            for row in item * per_item..(item + 1) * per_item {
                for (place, sum) in sums.chunks_exact_mut(c).enumerate() {
                    if let Some(pixel) = self.under(row, place) {
                        multiply_add(sum, &x[pixel * c..(pixel + 1) * c], &grad[row * c..(row + 1) * c]);
                    }
                }
            }
            sums
        };
        let items: Vec<Vec<f32>> = (0..self.maps.items).into_par_iter().map(of_item).collect();
        let mut sums = vec![0f32; places * c];
        items.iter().for_each(|item| sums.iter_mut().zip(item).for_each(|(s, i)| *s += i));
        (0..sums.len()).map(|i| sums[i % places * c + i / places]).collect()
    }
}
