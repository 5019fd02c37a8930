//! Activations.

use candle_core::{DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use super::alloc::overwritten;
use super::cpu::{self, Either};
use super::cuda;
use super::operand;
use super::profile::{self, Part};
use super::reference;
use super::round::{bits, narrow};
use super::scale::multiply;
use super::simd::{self, vectorised};
use super::spec::Activation;
use super::tape::{Value, composed, in_bf16};

impl Activation {
    /// Activated numbers, in the shape of `x`.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn apply(self, x: &Value) -> Result<Value> {
        self.applied(x, DType::F32)
    }

    /// [`Self::apply`], on a GPU that has a kernel for it with the output in `numbers`: f32, or bf16 for products
    /// alone.
    pub(super) fn applied(self, x: &Value, numbers: DType) -> Result<Value> {
        let _timed = profile::enter(Part::Activation);
        let x = &x.widened()?;
        if cuda::has_kernels(x.tensor())
            && let Some(number) = cuda::activation_number(self)
        {
            return cuda::activation(x, number, numbers);
        }
        if !cpu::has_kernels(x.tensor()) {
            return composed(&[x], move |t| reference::activation(t[0], self));
        }
        let (y, input) = (forward(x.tensor(), self)?, x.clone());
        Ok(Value::record(y, &[x], move |grad| input.add_grad(backward(input.tensor(), grad, self)?)))
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    (1.0 + simd::exp(-x)).recip()
}

/// The standard normal distribution's share below x.
#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 + 0.5 * simd::erf(x * std::f32::consts::FRAC_1_SQRT_2)
}

/// Loops over blocks of numbers, from what an activation makes of x, and of the gradient g of that.
macro_rules! loops {
    ($name:ident, |$x:ident, $g:ident| $both:expr) => {
        mod $name {
            use super::*;

            #[inline(always)]
            fn of_number($x: f32, $g: f32) -> (f32, f32) {
                $both
            }

            vectorised! {
                fn forward(x: &[f32], y: &mut [f32]) {
                    y.iter_mut().zip(x).for_each(|(y, x)| *y = of_number(*x, 0.0).0);
                }
            }

            vectorised! {
                fn backward(x: &[f32], grad: &mut [f32]) {
                    grad.iter_mut().zip(x).for_each(|(g, x)| *g = of_number(*x, *g).1);
                }
            }

            vectorised! {
                fn both(x: &[f32], y: &mut [bf16], grad: &mut [f32]) {
                    grad.iter_mut().zip(y).zip(x).for_each(|((g, y), x)| {
                        let both = of_number(*x, *g);
                        (*y, *g) = (bf16::from_bits(bits(both.0)), both.1);
                    });
                }
            }
        }
    };
}

const DENSITY_AT_0: f32 = 0.398_942_3; // 1 / √(2π)
const GELU_TANH: (f32, f32) = (0.797_884_6, 0.044_715); // √(2 / π), and the cube's share

loops!(quick_gelu, |x, g| {
    let s = sigmoid(1.702 * x);
    (x * s, g * (s * (1.0 + 1.702 * x * (1.0 - s))))
});
loops!(gelu, |x, g| {
    let below = normal_cdf(x);
    (x * below, g * (below + x * DENSITY_AT_0 * simd::exp(-0.5 * x * x)))
});
loops!(gelu_tanh, |x, g| {
    let (c, a) = GELU_TANH;
    // (1 + tanh u) / 2 is the sigmoid of 2u.
    let s = sigmoid(2.0 * c * (x + a * x * x * x));
    (x * s, g * (s + x * s * (1.0 - s) * 2.0 * c * (1.0 + 3.0 * a * x * x)))
});
loops!(relu, |x, g| (x.max(0.0), if x > 0.0 { g } else { 0.0 }));
loops!(tanh, |x, g| {
    let s = sigmoid(2.0 * x);
    (2.0 * s - 1.0, g * (4.0 * s * (1.0 - s)))
});
loops!(silu, |x, g| {
    let s = sigmoid(x);
    (x * s, g * (s * (1.0 + x * (1.0 - s))))
});
loops!(logistic, |x, g| {
    let s = sigmoid(x);
    (s, g * (s * (1.0 - s)))
});
loops!(relu6, |x, g| (x.clamp(0.0, 6.0), if x > 0.0 && x < 6.0 { g } else { 0.0 }));

/// An activation's loops over a block.
#[derive(Clone, Copy)]
pub(super) struct Loops {
    /// Writes the activated numbers.
    pub forward: fn(&[f32], &mut [f32]),
    /// Multiplies gradients by the slope.
    pub backward: fn(&[f32], &mut [f32]),
    /// Both, the activated numbers, rounded, first.
    pub both: fn(&[f32], &mut [bf16], &mut [f32]),
}

pub(super) fn loops(kind: Activation) -> Loops {
    macro_rules! of {
        ($name:ident) => {
            Loops { forward: $name::forward, backward: $name::backward, both: $name::both }
        };
    }
    match kind {
        Activation::QuickGelu => of!(quick_gelu),
        Activation::Gelu => of!(gelu),
        Activation::GeluTanh => of!(gelu_tanh),
        Activation::Relu => of!(relu),
        Activation::Tanh => of!(tanh),
        Activation::Silu => of!(silu),
        Activation::Sigmoid => of!(logistic),
        Activation::Relu6 => of!(relu6),
    }
}

/// Activated numbers of a CPU tensor.
pub(super) fn forward(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let _timed = profile::enter(Part::Activation);
    let x = x.contiguous()?;
    let mut y = overwritten(x.elem_count());
    let block = loops(kind).forward;
    y.par_chunks_mut(cpu::BLOCK).zip(cpu::read(&x)?.par_chunks(cpu::BLOCK)).for_each(|(y, x)| block(x, y));
    Tensor::from_vec(y, x.dims(), x.device())
}

/// The gradient of `x`, worked out in place of that of its activation, whose storage nobody else may hold.
pub(super) fn backward(x: &Tensor, grad: Tensor, kind: Activation) -> Result<Tensor> {
    let _timed = profile::enter(Part::Activation);
    let (x, grad) = (x.contiguous()?, grad.contiguous()?);
    let numbers = cpu::read(&x)?;
    let block = loops(kind).backward;
    cpu::write(&grad, |grad| {
        grad.par_chunks_mut(cpu::BLOCK).zip(numbers.par_chunks(cpu::BLOCK)).for_each(|(g, x)| block(x, g));
    })?;
    Ok(grad)
}

/// A tensor in f32 or rounded to bf16, whose numbers from a place on `piece` writes.
fn made(shape: &[usize], narrowed: bool, piece: impl Fn(usize, &mut [f32]) + Sync) -> Result<Tensor> {
    let count = shape.iter().product();
    if narrowed {
        let mut y = overwritten::<bf16>(count);
        y.par_chunks_mut(cpu::BLOCK).enumerate().for_each(|(i, y)| {
            let mut numbers = [0f32; PIECE];
            for (j, y) in y.chunks_mut(PIECE).enumerate() {
                let numbers = &mut numbers[..y.len()];
                piece(i * cpu::BLOCK + j * PIECE, numbers);
                narrow(numbers, y);
            }
        });
        return Tensor::from_vec(y, shape, &Device::Cpu);
    }
    let mut y = overwritten::<f32>(count);
    y.par_chunks_mut(cpu::BLOCK).enumerate().for_each(|(i, y)| {
        y.chunks_mut(PIECE).enumerate().for_each(|(j, y)| piece(i * cpu::BLOCK + j * PIECE, y));
    });
    Tensor::from_vec(y, shape, &Device::Cpu)
}

/// Numbers that are worked on together; they stay in the first cache.
const PIECE: usize = 512;

/// Writes the numbers of `x` from `start` on to a buffer, and gives them.
fn at<'a>(x: Either, start: usize, buffer: &'a mut [f32; PIECE], count: usize) -> &'a [f32] {
    x.widen(start, &mut buffer[..count]);
    &buffer[..count]
}

/// Activated numbers of a CPU tensor in f32 or bf16, (rows, columns), rounded to bf16 for the product that reads them.
pub(super) fn rounded(x: &Tensor, kind: Activation) -> Result<Tensor> {
    let _timed = profile::enter(Part::Activation);
    let numbers = operand::read(x)?;
    let (line, block) = (numbers.line(), loops(kind).forward);
    made(x.dims(), true, |start, y| block(at(line, start, &mut [0f32; PIECE], y.len()), y))
}

/// `activation(x) · gate`, number by number, for an output that only products read. x and gate: (rows, width). Keeps
/// both alone: what the activation makes of x is worked out again in the backward pass.
///
/// # Errors
/// Shapes that differ.
pub fn gated(x: &Value, gate: &Value, kind: Activation) -> Result<Value> {
    let _timed = profile::enter(Part::Activation);
    let inputs = [x, gate];
    let taken = |v: &Value| cpu::has_kernels(v.tensor()) || cpu::is_bf16(v.tensor());
    if x.tensor().dims() != gate.tensor().dims() {
        bail!("gated: {:?} and a gate of {:?}", x.tensor().dims(), gate.tensor().dims());
    }
    let narrowed = in_bf16(&inputs);
    if !inputs.into_iter().all(taken) {
        let [x, gate] = inputs.map(|v| if narrowed { v.with_rounded_gradient() } else { v.clone() });
        return multiply(&kind.apply(&x)?, &gate)?.as_operand();
    }
    let y = {
        let (xs, gates) = (operand::read(x.tensor())?, operand::read(gate.tensor())?);
        let (xs, gates, block) = (xs.line(), gates.line(), loops(kind).forward);
        made(x.tensor().dims(), narrowed, |start, y| {
            let mut buffer = [0f32; PIECE];
            block(at(xs, start, &mut buffer, y.len()), y);
            times(y, at(gates, start, &mut buffer, y.len()));
        })?
    };
    let (x, gate) = (x.clone(), gate.clone());
    Ok(Value::record(y, &inputs, move |grad| {
        let (xs, gates, grads) = (operand::read(x.tensor())?, operand::read(gate.tensor())?, operand::read(&grad)?);
        let (xs, gates, grads) = (xs.line(), gates.line(), grads.line());
        let Loops { forward: block, backward: slope, .. } = loops(kind);
        if gate.wants_grad() {
            gate.add_grad(made(grad.dims(), narrowed, |start, y| {
                let mut buffer = [0f32; PIECE];
                block(at(xs, start, &mut buffer, y.len()), y);
                times(y, at(grads, start, &mut buffer, y.len()));
            })?)?;
        }
        if x.wants_grad() {
            x.add_grad(made(grad.dims(), narrowed, |start, y| {
                let mut buffer = [0f32; PIECE];
                grads.widen(start, y);
                times(y, at(gates, start, &mut buffer, y.len()));
                slope(at(xs, start, &mut buffer, y.len()), y);
            })?)?;
        }
        Ok(())
    }))
}

vectorised! {
    fn times(y: &mut [f32], x: &[f32]) {
        y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_at_once_are_each_alone() {
        use Activation::{Gelu, GeluTanh, QuickGelu, Relu, Relu6, Sigmoid, Silu, Tanh};
        let x: Vec<f32> = (-41..42).map(|i| i as f32 * 0.21).collect();
        for kind in [QuickGelu, Gelu, GeluTanh, Relu, Tanh, Silu, Sigmoid, Relu6] {
            let Loops { forward, backward, both } = loops(kind);
            let (mut y, mut grad) = (vec![0.0; x.len()], x.clone());
            forward(&x, &mut y);
            backward(&x, &mut grad);
            let (mut of_both, mut grad_of_both) = (vec![bf16::ZERO; x.len()], x.clone());
            both(&x, &mut of_both, &mut grad_of_both);
            let y: Vec<bf16> = y.into_iter().map(bf16::from_f32).collect();
            assert!((y, grad) == (of_both, grad_of_both), "{kind:?}");
        }
    }
}
