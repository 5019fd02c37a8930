//! Convolution over feature maps whose pixels are rows (items · height · width, channels): a matrix product over the
//! patches that the kernel sees, gathered a few items at a time.

use std::borrow::Cow;

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu;
use super::cuda;
use super::gemm::{Epilogue, Into, Layout, Matrix, Output, Packed, Piece, Threads, product, product_bf16};
use super::gradient::Gradient;
use super::linear::{addends, linear, linear_no_bias, linear_residual};
use super::profile::{self, Part};
use super::reference;
use super::scale::add;
use super::simd::vectorised;
use super::spec::{Activation, Geometry, Maps};
use super::sum::column_sum;
use super::tape::{Value, composed, in_bf16};

/// Patches gathered at once, in numbers: 16 MiB.
const GATHERED: usize = 1 << 22;

/// A convolution as `torch.nn.functional.conv2d` has it, with what a residual network puts around it.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d<'a> {
    /// (out, in, kernel, kernel)
    pub weight: &'a Value,
    /// (out)
    pub bias: Option<&'a Value>,
    /// Added to the output: (output rows, out).
    pub residual: Option<&'a Value>,
    /// Pixels between neighbouring outputs.
    pub stride: usize,
    /// Zeros around each map.
    pub padding: usize,
    /// Whether what is below 0 in the end becomes 0.
    pub relu: bool,
}

impl Geometry {
    fn patch(&self) -> usize {
        self.inner * self.kernel * self.kernel
    }

    /// Whether the patches are the pixels themselves.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    /// The input pixel under each place of the kernel at output pixel (y, x), or none in the margin.
    #[inline(always)]
    fn under(&self, y: usize, x: usize, place: usize) -> Option<usize> {
        let (ky, kx) = (place / self.kernel, place % self.kernel);
        let row = (y * self.stride + ky).checked_sub(self.padding).filter(|&row| row < self.from.height)?;
        let column = (x * self.stride + kx).checked_sub(self.padding).filter(|&column| column < self.from.width)?;
        Some(row * self.from.width + column)
    }
}

impl Conv2d<'_> {
    /// x: (rows of `maps`, in) → (rows of the maps returned, out).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, x: &Value, maps: Maps) -> Result<(Value, Maps)> {
        let _timed = profile::enter(Part::Convolution);
        let shape = self.geometry(x.tensor(), maps)?;
        let x = &x.widened()?;
        let inputs: Vec<&Value> =
            [Some(x), Some(self.weight), self.bias, self.residual].into_iter().flatten().collect();
        let relu = self.relu;
        if x.tensor().device().is_cuda() && shape.is_pointwise() {
            return Ok((self.pointwise(x, &shape)?, shape.to));
        }
        let bf16 = in_bf16(&inputs);
        if !cpu::has_kernels(x.tensor()) {
            let biased = self.bias.is_some();
            let bf16 = bf16 && (x.tensor().device().is_cpu() || cuda::uses_tensor_cores());
            cuda::check_convolutions(x.tensor())?;
            let twin = move |t: &[&Tensor]| {
                let rest = &t[2..];
                let residual = if biased { rest.get(1) } else { rest.first() };
                let y = reference::conv2d(t[0], t[1], bf16, &shape)?;
                let y = if biased { y.broadcast_add(rest[0])? } else { y };
                let y = residual.map_or(Ok(y.clone()), |r| y + *r)?;
                if relu { y.relu() } else { Ok(y) }
            };
            return Ok((composed(&inputs, twin)?, shape.to));
        }
        let y = self.forward(x.tensor(), &shape, bf16)?;
        let (x, weight, bias, residual) = (x.clone(), self.weight.clone(), self.bias.cloned(), self.residual.cloned());
        let kept = relu.then(|| y.clone());
        let output = Value::record(y, &inputs, move |grad| {
            if let Some(y) = &kept {
                mask(&grad, y)?;
            }
            if let Some(bias) = bias.as_ref().filter(|b| b.wants_grad()) {
                bias.add_grad(Tensor::from_vec(
                    column_sum(&cpu::read(&grad)?, shape.outer),
                    shape.outer,
                    grad.device(),
                )?)?;
            }
            backward(&x, &weight, &grad, &shape, bf16)?;
            residual.map_or(Ok(()), |residual| residual.add_grad(grad))
        });
        Ok((output, shape.to))
    }

    /// A linear layer over pixels, as there are no better convolutions on GPUs.
    fn pointwise(&self, x: &Value, shape: &Geometry) -> Result<Value> {
        let weight = self.weight.reshape((shape.outer, shape.inner))?;
        let y = match (self.bias, self.residual) {
            (Some(bias), Some(residual)) => linear_residual(x, &weight, bias, residual),
            (Some(bias), None) => linear(x, &weight, bias),
            (None, Some(residual)) => add(&linear_no_bias(x, &weight)?, residual),
            (None, None) => linear_no_bias(x, &weight),
        }?;
        if self.relu { Activation::Relu.apply(&y) } else { Ok(y) }
    }

    fn geometry(&self, x: &Tensor, maps: Maps) -> Result<Geometry> {
        let ((rows, channels), (outer, inner, kernel, other)) = (x.dims2()?, self.weight.tensor().dims4()?);
        if rows != maps.rows() || channels != inner || kernel != other {
            bail!("conv2d: input ({rows}, {channels}) for {maps:?}, weight {:?}", self.weight.tensor().dims());
        }
        let side = |n: usize| match (n + 2 * self.padding).checked_sub(kernel) {
            Some(room) => Ok(room / self.stride + 1),
            None => bail!("conv2d: a kernel of {kernel} over {n} pixels and margins of {}", self.padding),
        };
        let to = Maps { items: maps.items, height: side(maps.height)?, width: side(maps.width)? };
        let expected = [to.rows(), outer];
        if self.residual.is_some_and(|r| r.tensor().dims() != expected) {
            bail!("conv2d: the residual is not {expected:?}");
        }
        Ok(Geometry { from: maps, to, inner, outer, kernel, stride: self.stride, padding: self.padding })
    }

    fn forward(&self, x: &Tensor, shape: &Geometry, bf16: bool) -> Result<Tensor> {
        if bf16 {
            return self.forward_bf16(x, shape);
        }
        let weights = cpu::read(self.weight.tensor())?;
        let (out, patch) = (shape.outer, shape.patch());
        let [bias, residual] = [self.bias, self.residual].map(|v| v.map(|v| cpu::read(v.tensor())).transpose());
        let (mut y, into) = addends(shape.to.rows(), out, bias?.as_deref(), residual?.as_deref());
        let (weight, xs) = (kernel_major(&weights, shape), cpu::read(x)?);
        let mut gathered = Vec::new();
        for (items, rows) in chunks(shape) {
            let patches = patches(&xs, items, shape, &mut gathered);
            let n = rows.len();
            let y = &mut y[rows.start * out..rows.end * out];
            let w = Layout::plain(out, patch).of(&weight).transposed();
            product((y, Layout::plain(n, out), into), 1.0, Layout::plain(n, patch).of(patches), w, Threads::All);
        }
        if self.relu {
            y.par_chunks_mut(cpu::BLOCK).for_each(|block| block.iter_mut().for_each(|v| *v = v.max(0.0)));
        }
        Tensor::from_vec(y, (shape.to.rows(), out), x.device())
    }

    /// What comes after the product is done as its numbers are finished.
    fn forward_bf16(&self, x: &Tensor, shape: &Geometry) -> Result<Tensor> {
        let out = shape.outer;
        let weights = cpu::read(self.weight.tensor())?;
        let pack = || {
            let weight = kernel_major(&weights, shape);
            Packed::new(Layout::plain(out, shape.patch()).of(&weight).transposed(), Threads::All)
        };
        let mut fresh = None;
        let packed = self.weight.packed_forward(pack).unwrap_or_else(|| fresh.insert(pack()));
        let bias = self.bias.map(|bias| cpu::read(bias.tensor())).transpose()?;
        let residual = self.residual.map(|residual| cpu::read(residual.tensor())).transpose()?;
        let (residual, relu) = (residual.as_deref(), self.relu);
        let (xs, mut gathered, mut y) = (cpu::read(x)?, Vec::new(), overwritten(shape.to.rows() * out));
        for (items, rows) in chunks(shape) {
            let (first, a) = (rows.start * out, patches(&xs, items, shape, &mut gathered));
            let then = |piece: &mut Piece| finish(residual.map(|residual| &residual[first..]), out, relu, piece);
            let layout = Layout::plain(rows.len(), out);
            let mut epilogue = Epilogue { bias: bias.as_deref(), ..Epilogue::default() };
            if residual.is_some() || relu {
                epilogue.then = Some(&then);
                epilogue.beside = residual.map(|residual| layout.of(&residual[first..]).into());
            }
            let output = Output::F32(&mut y[first..rows.end * out], layout, Into::Over);
            product_bf16(output, Layout::plain(rows.len(), shape.patch()).of(a), packed, epilogue, Threads::All);
        }
        Tensor::from_vec(y, (shape.to.rows(), out), x.device())
    }
}

vectorised! {
    /// Adds a residual, `width` numbers wide, and rectifies.
    fn finish(residual: Option<&[f32]>, width: usize, relu: bool, piece: &mut Piece) {
        if let Some(residual) = residual {
            for (line, residual) in piece.rows_beside(residual, width) {
                line.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
            }
        }
        if relu {
            piece.rows().for_each(|line| line.iter_mut().for_each(|y| *y = y.max(0.0)));
        }
    }
}

/// A product on all threads, of operands rounded to bf16 where that is wanted.
fn multiply((dst, layout, into): (&mut [f32], Layout, Into), a: Matrix, b: Matrix, bf16: bool) {
    if bf16 {
        product_bf16(Output::F32(dst, layout, into), a, b, Epilogue::default(), Threads::All);
    } else {
        product((dst, layout, into), 1.0, a, b, Threads::All);
    }
}

/// A weight as gradients of inputs are multiplied by it: (out, kernel · kernel · in).
enum ByWeight<'a> {
    F32(Matrix<'a>),
    Bf16(&'a Packed),
}

impl ByWeight<'_> {
    /// Of the gradients of some outputs, (output rows, out).
    fn multiply(&self, (dst, layout, into): (&mut [f32], Layout, Into), grads: Matrix) {
        match *self {
            Self::F32(weight) => product((dst, layout, into), 1.0, grads, weight, Threads::All),
            Self::Bf16(weight) => {
                product_bf16(Output::F32(dst, layout, into), grads, weight, Epilogue::default(), Threads::All);
            }
        }
    }
}

/// Sets `grad` to 0 where the rectified output is.
fn mask(grad: &Tensor, y: &Tensor) -> Result<()> {
    let ys = cpu::read(y)?;
    cpu::write(grad, |grad| {
        grad.par_chunks_mut(cpu::BLOCK).zip(ys.par_chunks(cpu::BLOCK)).for_each(|(grad, y)| {
            grad.iter_mut().zip(y).for_each(|(g, y)| *g = if *y > 0.0 { *g } else { 0.0 });
        });
    })
}

/// Items that are worked on together, and their output rows.
fn chunks(shape: &Geometry) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (per_item, all) = (shape.to.height * shape.to.width, shape.to.items);
    let items = if shape.is_pointwise() {
        all.max(1)
    } else {
        (GATHERED / (per_item * shape.patch()).max(1)).clamp(1, all.max(1))
    };
    (0..all).step_by(items).map(move |first| {
        let last = (first + items).min(all);
        (first..last, first * per_item..last * per_item)
    })
}

/// What the kernel sees at each output pixel of `items`: (output rows, kernel · kernel · in).
fn patches<'a>(x: &'a [f32], items: std::ops::Range<usize>, shape: &Geometry, into: &'a mut Vec<f32>) -> &'a [f32] {
    let (inner, patch) = (shape.inner, shape.patch());
    let per_item = shape.from.height * shape.from.width * inner;
    if shape.is_pointwise() {
        return &x[items.start * per_item..items.end * per_item];
    }
    let line = shape.to.width * patch;
    let numbers = items.len() * shape.to.height * line;
    if into.len() != numbers {
        *into = overwritten(numbers);
    }
    into.par_chunks_mut(line).enumerate().for_each(|(i, line)| {
        let (item, y) = (items.start + i / shape.to.height, i % shape.to.height);
        let x = &x[item * per_item..(item + 1) * per_item];
        for (column, patch) in line.chunks_exact_mut(patch).enumerate() {
            for (place, cell) in patch.chunks_exact_mut(inner).enumerate() {
                match shape.under(y, column, place) {
                    Some(pixel) => cell.copy_from_slice(&x[pixel * inner..(pixel + 1) * inner]),
                    None => cell.fill(0.0),
                }
            }
        }
    });
    into
}

/// Adds each patch's gradient to the pixels that it was gathered from. dx: of the whole batch.
fn scatter(patches: &[f32], items: std::ops::Range<usize>, shape: &Geometry, dx: &mut [f32]) {
    let (inner, patch) = (shape.inner, shape.patch());
    let (per_item, per_patches) =
        (shape.from.height * shape.from.width * inner, shape.to.height * shape.to.width * patch);
    let dx = &mut dx[items.start * per_item..items.end * per_item];
    dx.par_chunks_mut(per_item).zip(patches.par_chunks(per_patches)).for_each(|(dx, patches)| {
        for (i, patch) in patches.chunks_exact(patch).enumerate() {
            let (y, x) = (i / shape.to.width, i % shape.to.width);
            for (place, cell) in patch.chunks_exact(inner).enumerate() {
                if let Some(pixel) = shape.under(y, x, place) {
                    dx[pixel * inner..(pixel + 1) * inner].iter_mut().zip(cell).for_each(|(d, c)| *d += c);
                }
            }
        }
    });
}

fn backward(x: &Value, weight: &Value, grad: &Tensor, shape: &Geometry, bf16: bool) -> Result<()> {
    if !x.wants_grad() && !weight.wants_grad() {
        return Ok(());
    }
    let (out, patch) = (shape.outer, shape.patch());
    let (xs, gs) = (cpu::read(x.tensor())?, cpu::read(grad)?);
    let weights = cpu::read(weight.tensor())?;
    let (mut whole, mut fresh) = (None, None);
    let by_weight = match (x.wants_grad(), bf16) {
        (false, _) => None,
        (true, false) => Some(ByWeight::F32(Layout::plain(out, patch).of(whole.insert(kernel_major(&weights, shape))))),
        (true, true) => {
            let pack = || Packed::new(Layout::plain(out, patch).of(&kernel_major(&weights, shape)), Threads::All);
            Some(ByWeight::Bf16(weight.packed_backward(pack).unwrap_or_else(|| fresh.insert(pack()))))
        }
    };
    let mut dw = vec![0f32; if weight.wants_grad() { out * patch } else { 0 }];
    let mut add = |dx: Option<&mut [f32]>| {
        let (mut gathered, mut d_patches, mut dx) = (Vec::new(), Vec::new(), dx);
        for (items, rows) in chunks(shape) {
            let g = Layout::plain(rows.len(), out).of(&gs[rows.start * out..rows.end * out]);
            if !dw.is_empty() {
                let patches = patches(&xs, items.clone(), shape, &mut gathered);
                let p = Layout::plain(rows.len(), patch).of(patches);
                multiply((&mut dw, Layout::plain(out, patch), Into::Onto), g.transposed(), p, bf16);
            }
            let (Some(dx), Some(by_weight)) = (dx.as_deref_mut(), &by_weight) else { continue };
            if shape.is_pointwise() {
                let dx = &mut dx[rows.start * patch..rows.end * patch];
                by_weight.multiply((dx, Layout::plain(rows.len(), patch), Into::Onto), g);
            } else {
                if d_patches.len() != rows.len() * patch {
                    d_patches = overwritten(rows.len() * patch);
                }
                by_weight.multiply((&mut d_patches, Layout::plain(rows.len(), patch), Into::Over), g);
                scatter(&d_patches, items, shape, dx);
            }
        }
    };
    if x.wants_grad() {
        x.update_grad(|before| {
            let dx = match before {
                Some(before) => cpu::widened(before.into_dense()?)?,
                None => x.tensor().zeros_like()?,
            };
            cpu::write(&dx, |dx| add(Some(dx)))?;
            Ok(Gradient::Dense(dx))
        })?;
    } else {
        add(None);
    }
    if weight.wants_grad() {
        let dw = transpose_inner(Cow::Owned(dw), out, shape.kernel * shape.kernel, shape.inner);
        weight.add_grad(Tensor::from_vec(dw.into_owned(), weight.tensor().dims(), grad.device())?)?;
    }
    Ok(())
}

/// The weight with its kernel before its input channels, as [`patches`] lie: (out, kernel · kernel · in).
fn kernel_major<'a>(weight: &'a [f32], shape: &Geometry) -> Cow<'a, [f32]> {
    transpose_inner(Cow::Borrowed(weight), shape.outer, shape.inner, shape.kernel * shape.kernel)
}

/// (outer, rows, columns) → (outer, columns, rows)
fn transpose_inner(x: Cow<[f32]>, outer: usize, rows: usize, columns: usize) -> Cow<[f32]> {
    if rows == 1 || columns == 1 {
        return x;
    }
    let mut y = overwritten(x.len());
    let each = x.len() / outer;
    y.par_chunks_mut(each).zip(x.par_chunks(each)).for_each(|(y, x)| {
        for (column, y) in y.chunks_exact_mut(rows).enumerate() {
            y.iter_mut().enumerate().for_each(|(row, y)| *y = x[row * columns + column]);
        }
    });
    Cow::Owned(y)
}
