//! Reverse-mode differentiation for the towers.
//!
//! candle's own keeps every activation until the whole backward pass is over, clears and adds on each edge of the
//! graph, and works out gradients of frozen operands. This one runs the steps back in the order in which they were
//! recorded, frees each as it passes, lets products add straight into a gradient, and skips what nobody asks for.
//! Losses stay with candle's: they are small.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};

use candle_core::{DType, Result, Shape, Tensor, Var};

use super::cpu;
use super::gemm::Packed;
use super::gradient::Gradient;
use super::profile::{self, Part};
use super::relevance::Relevance;

/// A tensor, on which tape a gradient is wanted for it (none for constants and frozen weights), and in which type
/// products with it are worked out.
#[derive(Clone, Debug)]
pub struct Value {
    tensor: Tensor,
    grad: GradOf,
    products: DType,
    /// Of one that several products use.
    packed: Option<Rc<PackedOnce>>,
}

/// A weight rounded and packed for both ways in which products use it, or what it is multiplied with, each once for all
/// products.
#[derive(Debug, Default)]
struct PackedOnce {
    forward: OnceCell<Packed>,
    backward: OnceCell<Packed>,
    rows: OnceCell<Packed>,
}

/// Where the gradient of a value goes.
#[derive(Clone, Debug)]
struct Tracked {
    // Weak: the tape's steps hold values.
    tape: Weak<Tape>,
    slot: usize,
}

/// Where the gradient of a value goes, if anywhere: what a step holds that does not need the value's numbers, so that
/// they can be freed.
#[derive(Clone, Debug)]
pub(super) struct GradOf(Option<Tracked>);

impl GradOf {
    /// As [`Value::add_grad`].
    pub fn add(&self, grad: Tensor) -> Result<()> {
        self.update(|before| match before {
            None => Ok(Gradient::Dense(grad)),
            Some(before) => before.plus(grad),
        })
    }

    /// As [`Value::wants_grad`].
    pub fn is_wanted(&self) -> bool {
        self.tape().is_some_and(|tape| tape.recording.get())
    }

    fn tape(&self) -> Option<Rc<Tape>> {
        self.0.as_ref().and_then(|t| t.tape.upgrade())
    }

    fn update(&self, update: impl FnOnce(Option<Gradient>) -> Result<Gradient>) -> Result<()> {
        let (Some(tape), Some(tracked)) = (self.tape(), &self.0) else { return Ok(()) };
        let updated = update(tape.take_grad(tracked.slot))?;
        tape.grads.borrow_mut()[tracked.slot] = Some(updated);
        Ok(())
    }
}

struct Step {
    output: usize,
    /// The leaves among the inputs.
    leaves: Vec<usize>,
    /// Whose time the backward pass is.
    part: Part,
    backward: Box<dyn FnOnce(Tensor) -> Result<()>>,
}

/// The steps of a computation, and the gradients found so far.
pub struct Tape {
    /// Slots below this are leaves: weights, numbered by the caller.
    leaves: usize,
    steps: RefCell<Vec<Step>>,
    grads: RefCell<Vec<Option<Gradient>>>,
    recording: Cell<bool>,
    /// Of each attention that was run back, where that is wanted.
    relevance: RefCell<Option<Vec<Relevance>>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} leaves, {} steps)", self.leaves, self.steps())
    }
}

impl Tape {
    /// An empty tape over `leaves` weights.
    pub fn new(leaves: usize) -> Rc<Self> {
        let grads = RefCell::new((0..leaves).map(|_| None).collect());
        Rc::new(Self {
            leaves,
            steps: RefCell::default(),
            grads,
            recording: Cell::new(true),
            relevance: RefCell::default(),
        })
    }

    /// The weight of this number, below the tape's count of leaves.
    pub fn leaf(self: &Rc<Self>, number: usize, tensor: Tensor) -> Value {
        assert!(number < self.leaves, "the tape has {} leaves", self.leaves);
        self.value(number, tensor)
    }

    fn value(self: &Rc<Self>, slot: usize, tensor: Tensor) -> Value {
        Value { grad: GradOf(Some(Tracked { tape: Rc::downgrade(self), slot })), ..tensor.into() }
    }

    fn fresh(self: &Rc<Self>, tensor: Tensor) -> Value {
        let mut grads = self.grads.borrow_mut();
        grads.push(None);
        self.value(grads.len() - 1, tensor)
    }

    /// Runs `f` without recording: what it makes are constants.
    pub fn paused<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = self.recording.replace(false);
        let result = f();
        self.recording.set(before);
        result
    }

    /// Makes attentions leave their [`Relevance`] when they are run back.
    pub fn watch_attention(&self) {
        *self.relevance.borrow_mut() = Some(Vec::new());
    }

    /// What attentions left, from the first layer to the last.
    pub fn take_relevance(&self) -> Vec<Relevance> {
        let mut all = self.relevance.borrow_mut().as_mut().map(std::mem::take).unwrap_or_default();
        all.reverse();
        all
    }

    /// How many steps are recorded and not yet run back.
    pub fn steps(&self) -> usize {
        self.steps.borrow().len()
    }

    /// Runs all steps back from `outputs`, each with the gradient of the loss on it. A leaf's gradient adds to what
    /// earlier calls left.
    ///
    /// `finished` is told of each leaf as soon as no step that remains uses it, and may take its gradient with
    /// [`Tape::take_grad`].
    ///
    /// # Errors
    /// Whatever the device or `finished` reports.
    pub fn backward<'a>(
        &self,
        outputs: impl IntoIterator<Item = (&'a Value, Tensor)>,
        finished: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut first_use = vec![usize::MAX; self.leaves];
        for (at, step) in self.steps.borrow().iter().enumerate() {
            step.leaves.iter().for_each(|&leaf| first_use[leaf] = first_use[leaf].min(at));
        }
        let _timed = profile::enter_backward(Part::Other);
        for (output, grad) in outputs {
            output.add_grad(grad)?;
        }
        let result = self.run_back(0, &mut |at, leaves| {
            leaves.iter().filter(|&&leaf| first_use[leaf] == at).try_for_each(|&leaf| finished(leaf))
        });
        self.grads.borrow_mut().truncate(self.leaves);
        result
    }

    /// Runs back all steps but the first `mark`; `passed` gets the number and the leaves of each.
    fn run_back(&self, mark: usize, passed: &mut dyn FnMut(usize, &[usize]) -> Result<()>) -> Result<()> {
        while self.steps() > mark {
            let Some(step) = self.steps.borrow_mut().pop() else { break };
            if let Some(grad) = self.take_grad(step.output) {
                let _timed = profile::enter_backward(step.part);
                (step.backward)(grad.into_dense()?)?;
            }
            passed(self.steps(), &step.leaves)?;
        }
        Ok(())
    }

    /// The gradient that has reached this leaf; the tape keeps none.
    pub fn take_grad(&self, slot: usize) -> Option<Gradient> {
        self.grads.borrow_mut().get_mut(slot).and_then(Option::take)
    }
}

impl From<Tensor> for Value {
    /// A constant, whose products are worked out as its numbers are.
    fn from(tensor: Tensor) -> Self {
        let products = tensor.dtype();
        Self { tensor, grad: GradOf(None), products, packed: None }
    }
}

impl Value {
    /// Its numbers.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Whether a gradient will be worked out for it.
    pub fn wants_grad(&self) -> bool {
        self.grad.is_wanted()
    }

    /// Leaves what `make` finds on this value's tape, where that is wanted.
    pub(super) fn leave_relevance(&self, make: impl FnOnce() -> Result<Relevance>) -> Result<()> {
        let Some(tape) = self.tape() else { return Ok(()) };
        if let Some(all) = tape.relevance.borrow_mut().as_mut() {
            all.push(make()?);
        }
        Ok(())
    }

    /// The same value with products in bf16 (operands rounded to it, sums in f32), or as its numbers are. What
    /// operations make of a value with products in bf16 has them too.
    pub fn with_products(self, products: DType) -> Self {
        let products = if products == DType::BF16 { products } else { self.tensor.dtype() };
        Self { products, ..self }
    }

    /// In which type products with this value are worked out.
    pub fn products(&self) -> DType {
        self.products
    }

    /// A matrix that does not change while this value lives, and that several products use: it is rounded and packed
    /// for the first alone, where products are in bf16.
    pub fn used_often(self) -> Self {
        Self { packed: Some(Rc::default()), ..self }
    }

    /// The same value for what outlives the products that use it together: what was packed for them need not stay.
    pub(super) fn without_packed(&self) -> Self {
        Self { packed: None, ..self.clone() }
    }

    /// What a weight is multiplied with, (rows, in); otherwise as [`Self::packed_forward`].
    pub(super) fn packed_rows(&self, pack: impl FnOnce() -> Packed) -> Option<&Packed> {
        self.packed.as_ref().map(|packed| packed.rows.get_or_init(pack))
    }

    /// The weight's transpose, (in, out), packed by `pack` if it was not before; `None` where it is not kept.
    pub(super) fn packed_forward(&self, pack: impl FnOnce() -> Packed) -> Option<&Packed> {
        self.packed.as_ref().map(|packed| packed.forward.get_or_init(pack))
    }

    /// The weight itself, (out, in), for gradients of inputs; otherwise as [`Self::packed_forward`].
    pub(super) fn packed_backward(&self, pack: impl FnOnce() -> Packed) -> Option<&Packed> {
        self.packed.as_ref().map(|packed| packed.backward.get_or_init(pack))
    }

    fn tape(&self) -> Option<Rc<Tape>> {
        self.grad.tape()
    }

    /// The output of an operation on `inputs`. `backward` gets the gradient of the output and adds to those of inputs.
    pub(super) fn record(
        tensor: Tensor,
        inputs: &[&Value],
        backward: impl FnOnce(Tensor) -> Result<()> + 'static,
    ) -> Value {
        Self::record_operand(tensor, inputs, move |grad| backward(cpu::widened(grad)?))
    }

    /// [`Self::record`] for a `backward` that takes a gradient in bf16 too, as one who reads the output in products
    /// alone may leave it.
    pub(super) fn record_operand(
        tensor: Tensor,
        inputs: &[&Value],
        backward: impl FnOnce(Tensor) -> Result<()> + 'static,
    ) -> Value {
        let products = if in_bf16(inputs) { DType::BF16 } else { tensor.dtype() };
        let Some(tape) = inputs.iter().find(|v| v.wants_grad()).and_then(|v| v.tape()) else {
            return Value::from(tensor).with_products(products);
        };
        let slots = inputs.iter().filter_map(|v| v.grad.0.as_ref()).map(|t| t.slot);
        let leaves = slots.filter(|&slot| slot < tape.leaves).collect();
        let output = tape.fresh(tensor).with_products(products);
        let slot = output.grad.0.as_ref().map_or(usize::MAX, |t| t.slot);
        tape.steps.borrow_mut().push(Step {
            output: slot,
            leaves,
            part: profile::current(),
            backward: Box::new(backward),
        });
        output
    }

    /// Changes this value's gradient: `update` gets what is there and gives what shall be. Nothing where none is
    /// wanted.
    pub(super) fn update_grad(&self, update: impl FnOnce(Option<Gradient>) -> Result<Gradient>) -> Result<()> {
        self.grad.update(update)
    }

    /// Adds to this value's gradient. The caller must hold no other tensor on the storage of `grad`.
    pub(super) fn add_grad(&self, grad: Tensor) -> Result<()> {
        self.grad.add(grad)
    }

    /// Where its gradient goes.
    pub(super) fn grad(&self) -> GradOf {
        self.grad.clone()
    }

    /// The same numbers in another shape.
    ///
    /// # Errors
    /// Another count of numbers.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Value> {
        let (of_input, before) = (self.grad(), self.tensor.shape().clone());
        let y = self.tensor.reshape(shape.into())?;
        Ok(Value::record(y, &[self], move |grad| of_input.add(grad.reshape(before)?)))
    }
}

/// Whether products between these are worked out in bf16: one that asks for it decides.
pub(super) fn in_bf16(inputs: &[&Value]) -> bool {
    inputs.iter().any(|v| v.products == DType::BF16)
}

/// What `f` makes of `x`, keeping only `x` for the backward pass: all between is computed again then. `weights` are
/// those that `f` uses.
///
/// # Errors
/// Those of `f`.
pub fn recomputed(x: &Value, weights: &[&Value], f: impl Fn(&Value) -> Result<Value> + 'static) -> Result<Value> {
    let inputs: Vec<&Value> = std::iter::once(x).chain(weights.iter().copied()).collect();
    let Some(tape) = inputs.iter().find(|v| v.wants_grad()).and_then(|v| v.tape()) else { return f(x) };
    let y = tape.paused(|| f(x))?.tensor;
    let (input, weak) = (x.clone(), Rc::downgrade(&tape));
    Ok(Value::record(y, &inputs, move |grad| {
        let Some(tape) = weak.upgrade() else { return Ok(()) };
        let mark = tape.steps();
        let again = tape.fresh(input.tensor.clone()).with_products(input.products);
        f(&again)?.add_grad(grad)?;
        tape.run_back(mark, &mut |_, _| Ok(()))?;
        let slot = again.grad.0.as_ref().map_or(usize::MAX, |t| t.slot);
        match tape.take_grad(slot) {
            Some(grad) => input.add_grad(grad.into_dense()?),
            None => Ok(()),
        }
    }))
}

/// An operation where there is no kernel for it: its plain `twin`, which is run again for the backward pass and
/// differentiated by candle.
pub(super) fn composed(inputs: &[&Value], twin: impl Fn(&[&Tensor]) -> Result<Tensor> + 'static) -> Result<Value> {
    let tensors: Vec<&Tensor> = inputs.iter().map(|v| &v.tensor).collect();
    let y = twin(&tensors)?;
    let kept: Vec<Value> = inputs.iter().map(|&v| v.clone()).collect();
    Ok(Value::record(y, inputs, move |grad| {
        let vars = kept.iter().map(|v| Var::from_tensor(&v.tensor)).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<&Tensor> = vars.iter().map(|v| v.as_tensor()).collect();
        let mut grads = (twin(&tensors)? * grad)?.sum_all()?.backward()?;
        for (value, var) in kept.iter().zip(&vars) {
            if let Some(grad) = grads.remove(var).filter(|_| value.wants_grad()) {
                value.add_grad(grad)?;
            }
        }
        Ok(())
    }))
}
