//! Products with a weight in bf16, on the CPU: operands are rounded to it, sums and gradients of weights are in f32.

use std::marker::PhantomData;
use std::ops::Deref;

use candle_core::{DType, Result, Storage, Tensor};
use half::bf16;

use super::activation_bf16;
use super::alloc::overwritten;
use super::cpu::{self, Either};
use super::gemm::{Epilogue, Factor, Into, Layout, Output, Packed, Piece, Threads, packed_product, product_bf16};
use super::gradient::Gradient;
use super::operand::{self, Operand};
use super::simd::vectorised;
use super::spec::Activation;
use super::sum::{column_sum, column_sum_bf16};
use super::tape::Value;

/// What a product with a weight is made of. Shapes fit.
#[derive(Clone)]
pub(super) struct Layer {
    /// (rows, in), f32 or bf16.
    pub x: Value,
    pub with: Weights,
}

/// What a layer makes its output with, in f32.
#[derive(Clone)]
pub(super) struct Weights {
    /// (out, in)
    pub weight: Value,
    /// (out)
    pub bias: Option<Value>,
    /// (rows, out)
    pub residual: Option<Value>,
}

impl Layer {
    /// `residual + x · weightᵀ + bias`, in bf16 where `narrow`: (rows, out).
    pub fn apply(self, narrow: bool) -> Result<Value> {
        let y = {
            let x = operand::read(self.x.tensor())?;
            self.with.forward(rows_factor(&self.x, &x), narrow)?
        };
        let this = Self { x: self.x.without_packed(), ..self.clone() };
        Ok(Value::record_operand(y, &self.inputs(), move |grad| {
            this.add_grads(&grad, || Ok(this.x.tensor().clone()))?;
            if this.x.wants_grad() {
                let (factor, weight) = (operand::read(&grad)?, operand::read(this.with.weight.tensor())?);
                add_product(&this.x, factor.plain(), backward_factor(&this.with.weight, &weight))?;
            }
            this.with.residual.map_or(Ok(()), |residual| residual.add_grad(cpu::widened(grad)?))
        }))
    }

    /// `residual + activation(x) · weightᵀ + bias`. Keeps `x` alone. Its gradient is left in bf16: products read it.
    pub fn apply_activated(self, kind: Activation) -> Result<Value> {
        let active = activation_bf16::rounded(self.x.tensor(), kind)?;
        let y = self.with.forward(operand::read(&active)?.plain(), false)?;
        let this = self.clone();
        Ok(Value::record(y, &self.inputs(), move |grad| {
            let mut active = None;
            if this.x.wants_grad() {
                let (dx, activated) = this.grad_before(kind, &grad)?;
                this.x.add_grad(dx)?;
                active = activated;
            }
            this.add_grads(&grad, || active.map_or_else(|| activation_bf16::rounded(this.x.tensor(), kind), Ok))?;
            this.with.residual.map_or(Ok(()), |residual| residual.add_grad(grad))
        }))
    }

    fn inputs(&self) -> Vec<&Value> {
        std::iter::once(&self.x).chain(self.with.inputs()).collect()
    }

    /// `residual + activation(x · weightᵀ + bias) · weightᵀ + bias`, with weight and bias of this layer, then of
    /// `second`, where no gradient goes back: what lies between is rounded before and after the activation, as where it
    /// is kept, and goes from product to product as the second takes it.
    pub fn feed_forward(&self, kind: Activation, second: &Weights) -> Result<Value> {
        let then = activation_bf16::of_rounded(kind);
        let x = operand::read(self.x.tensor())?;
        let end = Epilogue { then: Some(&then), ..Epilogue::default() };
        let hidden = self
            .with
            .with_factors(rows_factor(&self.x, &x), end, |_, a, b, end| Ok(packed_product(a, b, end, Threads::All)))?;
        let y = second.forward((&hidden).into(), false)?;
        Ok(Value::from(y).with_products(DType::BF16))
    }

    /// Adds to the gradients of weight and bias; `x` is asked for where the weight has one.
    fn add_grads(&self, grad: &Tensor, x: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let factor = operand::read(grad)?;
        if let Some(bias) = self.with.bias.as_ref().filter(|bias| bias.wants_grad()) {
            let sums = match factor.line() {
                Either::F32(numbers) => column_sum(numbers, factor.columns()),
                Either::Bf16(numbers) => column_sum_bf16(numbers, factor.columns()),
            };
            bias.add_grad(Tensor::from_vec(sums, factor.columns(), grad.device())?)?;
        }
        if self.with.weight.wants_grad() {
            let x = x()?;
            add_product(&self.with.weight, factor.plain().transposed(), operand::read(&x)?.plain())?;
        }
        Ok(())
    }

    /// The gradient of what goes through an activation before the product; where the weight's gradient needs them, the
    /// activated numbers too, which one evaluation gives beside the slope.
    fn grad_before(&self, kind: Activation, grad: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let (factor, weight) = (operand::read(grad)?, operand::read(self.with.weight.tensor())?);
        let operand = operand::read(self.x.tensor())?;
        let layout = Layout::plain(factor.rows(), weight.columns());
        let (before, width, count) = (operand.line(), layout.columns, layout.rows * layout.columns);
        let slope = activation_bf16::slope(kind);
        let mut active = self.with.weight.wants_grad().then(|| overwritten::<bf16>(count));
        let pieces = active.as_mut().map(|active| Pieces::of(active));
        #[allow(unsafe_code)]
        let then = |piece: &mut Piece| {
            let first = piece.part.row * width + piece.part.column;
            for (i, grad) in piece.rows().enumerate() {
                let start = first + i * width;
                // SAFETY: a product finishes each number of its output once.
                let active = pieces.as_ref().map(|pieces| unsafe { pieces.get(start, grad.len()) });
                slope(before, start, grad, active);
            }
        };
        let mut dx = overwritten::<bf16>(count);
        let epilogue = Epilogue { then: Some(&then), beside: Some(operand.plain()), ..Epilogue::default() };
        let b = backward_factor(&self.with.weight, &weight);
        product_bf16(Output::Bf16(&mut dx, layout), factor.plain(), b, epilogue, Threads::All);
        let tensor = |numbers| Tensor::from_vec(numbers, (layout.rows, width), grad.device());
        Ok((tensor(dx)?, active.map(tensor).transpose()?))
    }
}

impl Weights {
    pub fn inputs(&self) -> impl Iterator<Item = &Value> {
        std::iter::once(&self.weight).chain(&self.bias).chain(&self.residual)
    }

    /// `residual + x · weightᵀ + bias`, in bf16 where `narrow`. x: (rows, in)
    fn forward(&self, x: Factor, narrow: bool) -> Result<Tensor> {
        let Some(residual) = &self.residual else { return self.product(x, narrow, Epilogue::default()) };
        let layout = self.layout(&x)?;
        let residual = cpu::read(residual.tensor())?;
        let add = |piece: &mut Piece| add_rows(&residual, layout.columns, piece);
        let beside = Some(layout.of(&residual).into());
        self.product(x, narrow, Epilogue { then: Some(&add), beside, ..Epilogue::default() })
    }

    /// Of the output for this operand: (rows, out).
    fn layout(&self, x: &Factor) -> Result<Layout> {
        Ok(Layout::plain(x.shape().0, self.weight.tensor().dim(0)?))
    }

    /// What `end` makes of `x · weightᵀ + bias`.
    fn product(&self, x: Factor, narrow: bool, end: Epilogue) -> Result<Tensor> {
        self.with_factors(x, end, |layout, a, b, end| {
            let (shape, numbers) = ((layout.rows, layout.columns), layout.rows * layout.columns);
            let device = self.weight.tensor().device();
            if narrow {
                let mut y = overwritten::<bf16>(numbers);
                product_bf16(Output::Bf16(&mut y, layout), a, b, end, Threads::All);
                return Tensor::from_vec(y, shape, device);
            }
            let mut y = overwritten::<f32>(numbers);
            product_bf16(Output::F32(&mut y, layout, Into::Over), a, b, end, Threads::All);
            Tensor::from_vec(y, shape, device)
        })
    }

    /// What `multiply` makes of both factors, with the bias in the epilogue.
    fn with_factors<T>(
        &self,
        x: Factor,
        end: Epilogue,
        multiply: impl FnOnce(Layout, Factor, Factor, Epilogue) -> Result<T>,
    ) -> Result<T> {
        let weight = operand::read(self.weight.tensor())?;
        let packed = self.weight.packed_forward(|| Packed::new(weight.plain().transposed(), Threads::All));
        let b = packed.map_or_else(|| weight.plain().transposed(), Factor::from);
        let bias = self.bias.as_ref().map(|bias| cpu::read(bias.tensor())).transpose()?;
        multiply(self.layout(&x)?, x, b, Epilogue { bias: bias.as_deref(), ..end })
    }
}

/// Numbers that several tasks write, each its own.
struct Pieces<'a> {
    start: *mut bf16,
    count: usize,
    numbers: PhantomData<&'a mut [bf16]>,
}

#[allow(unsafe_code)]
// SAFETY: tasks get disjoint pieces (`get` asks that), and the numbers are borrowed as long as this lives.
unsafe impl Sync for Pieces<'_> {}

impl<'a> Pieces<'a> {
    fn of(numbers: &'a mut [bf16]) -> Self {
        Self { start: numbers.as_mut_ptr(), count: numbers.len(), numbers: PhantomData }
    }

    /// # Safety
    /// No two pieces that live at once overlap.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    unsafe fn get(&self, start: usize, count: usize) -> &mut [bf16] {
        assert!(start + count <= self.count, "within the numbers");
        // SAFETY: within the numbers (asserted), and nobody else has them (as promised).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), count) }
    }
}

vectorised! {
    /// Adds a matrix `width` numbers wide.
    fn add_rows(from: &[f32], width: usize, piece: &mut Piece) {
        for (line, from) in piece.rows_beside(from, width) {
            match (<&mut [f32; 32]>::try_from(&mut *line), <&[f32; 32]>::try_from(from)) {
                // A length that the compiler knows.
                (Ok(line), Ok(from)) => line.iter_mut().zip(from).for_each(|(y, x)| *y += x),
                _ => line.iter_mut().zip(from).for_each(|(y, x)| *y += x),
            }
        }
    }
}

/// What weights are multiplied with, packed once where several are.
fn rows_factor<'a>(x: &'a Value, numbers: &'a Operand<impl Deref<Target = Storage>>) -> Factor<'a> {
    let packed = x.packed_rows(|| Packed::rows(numbers.plain(), Threads::All));
    packed.map_or_else(|| numbers.plain(), Factor::from)
}

/// A weight as gradients of inputs are multiplied by it.
fn backward_factor<'a>(weight: &'a Value, numbers: &'a Operand<impl Deref<Target = Storage>>) -> Factor<'a> {
    let packed = weight.packed_backward(|| Packed::new(numbers.plain(), Threads::All));
    packed.map_or_else(|| numbers.plain(), Factor::from)
}

/// Adds `a · b` to the gradient of `value`, which has its shape: straight into it where there is one.
fn add_product(value: &Value, a: Factor, b: Factor) -> Result<()> {
    let (rows, columns) = value.tensor().dims2()?;
    let layout = Layout::plain(rows, columns);
    value.update_grad(|before| match before {
        Some(before) => {
            let sum = cpu::widened(before.into_dense()?)?;
            let add = |sum: &mut [f32]| {
                product_bf16(Output::F32(sum, layout, Into::Onto), a, b, Epilogue::default(), Threads::All);
            };
            cpu::write(&sum, add)?;
            Ok(Gradient::Dense(sum))
        }
        None => {
            let mut fresh = overwritten::<f32>(rows * columns);
            product_bf16(Output::F32(&mut fresh, layout, Into::Over), a, b, Epilogue::default(), Threads::All);
            Tensor::from_vec(fresh, (rows, columns), value.tensor().device()).map(Gradient::Dense)
        }
    })
}
