//! Named weights, and the builder through which layers ask for them.
//!
//! One piece of code, the layers' constructors, says which weights exist: run once with [`Builder::declare`] it yields
//! the list of names and shapes, run again over the loaded [`Params`] it yields the model. So a weight cannot be
//! declared in one place and forgotten in another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::{DType, Device, Result, Shape, Tensor, Var, bail};
use rayon::prelude::*;

use super::layers::noise::Noise;
pub use super::param_spec::{Depth, Init, ParamSpec, Part};
use crate::ops::{Tape, Value};

/// How the names of an adapter's two matrices end.
pub(super) const LORA_A: &str = ".lora_A.weight";
pub(super) const LORA_B: &str = ".lora_B.weight";

/// Whether a weight is part of an adapter; see [`super::layers::lora`].
pub fn is_adapter(name: &str) -> bool {
    name.ends_with(LORA_A) || name.ends_with(LORA_B)
}

/// One weight with its numbers.
#[derive(Clone, Debug)]
pub struct Param {
    /// What the layers declared.
    pub spec: ParamSpec,
    /// The numbers, f32.
    pub var: Var,
    /// Whether training changes it.
    pub trainable: bool,
}

impl Param {
    /// A copy of the tensor's numbers under this name; trainable unless it is a buffer.
    ///
    /// # Errors
    /// A tensor of another shape than declared.
    pub(super) fn new(spec: ParamSpec, tensor: &Tensor) -> Result<Self> {
        if tensor.shape() != &spec.shape {
            bail!("{}: shape {:?}, declared {:?}", spec.name, tensor.dims(), spec.shape.dims());
        }
        let var = Var::from_tensor(&tensor.to_dtype(DType::F32)?.contiguous()?)?;
        let trainable = !spec.buffer;
        Ok(Self { spec, var, trainable })
    }
}

/// All weights of a model, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Params {
    list: Vec<Param>,
    index: HashMap<String, usize>,
    /// What products of adapters are multiplied by; `None` where there are no adapters.
    adapter_scale: Option<f64>,
}

impl Params {
    /// Puts numbers to specs. Everything but buffers is trainable at first.
    ///
    /// # Errors
    /// A tensor of another shape than declared.
    pub fn new(weights: Vec<(ParamSpec, Tensor)>) -> Result<Self> {
        let list = weights.into_par_iter().map(|(spec, tensor)| Param::new(spec, &tensor)).collect::<Result<_>>()?;
        Ok(Self::of(list))
    }

    /// These weights.
    pub(super) fn of(mut list: Vec<Param>) -> Self {
        list.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let index = list.iter().enumerate().map(|(i, p)| (p.spec.name.clone(), i)).collect();
        Self { list, index, adapter_scale: None }
    }

    /// The same weights, of which some are adapters; see [`super::layers::lora`].
    pub(super) fn with_adapter_scale(self, scale: f64) -> Self {
        Self { adapter_scale: Some(scale), ..self }
    }

    /// What products of adapters are multiplied by; `None` where there are no adapters.
    pub fn adapter_scale(&self) -> Option<f64> {
        self.adapter_scale
    }

    /// All weights, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.list.iter()
    }

    /// The same, to change what is trainable.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.list.iter_mut()
    }

    /// The weights that training changes, by name.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        self.list.iter().filter(|p| p.trainable)
    }

    /// The weight of this name.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.index.get(name).map(|&i| &self.list[i])
    }

    /// Names and numbers, by name, sharing storage with the weights: what is written to files.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.iter().map(|p| (p.spec.name.clone(), p.var.as_detached_tensor())).collect()
    }

    /// The weights with their numbers, by name: a tape's leaves.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Param)> {
        self.list.iter().enumerate()
    }

    /// The weight of this number.
    pub fn numbered_param(&self, number: usize) -> &Param {
        &self.list[number]
    }

    /// How many weights there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many numbers there are in all, and in the trainable weights.
    pub fn count(&self) -> (usize, usize) {
        let count = |p: &Param| p.spec.shape.elem_count();
        (self.iter().map(count).sum(), self.trainable().map(count).sum())
    }

    /// The same weights, of which the trainable ones are copies that change by themselves; the others are shared.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn with_own_weights(&self) -> Result<Self> {
        let own = |p: &Param| {
            let var = if p.trainable { Var::from_tensor(&p.var.as_detached_tensor().copy()?)? } else { p.var.clone() };
            Ok(Param { spec: p.spec.clone(), var, trainable: p.trainable })
        };
        Ok(Self {
            list: self.list.iter().map(own).collect::<Result<_>>()?,
            index: self.index.clone(),
            adapter_scale: self.adapter_scale,
        })
    }

    /// share × these + (1 − share) × others, weight by weight.
    ///
    /// # Errors
    /// A weight that one of the two lacks, or of another shape.
    pub fn mixed(&self, others: &Self, share: f64) -> Result<Self> {
        if let Some(lost) = others.iter().find(|p| self.get(&p.spec.name).is_none()) {
            bail!("{} is in one of them only", lost.spec.name);
        }
        let mix = |p: &Param| {
            let Some(other) = others.get(&p.spec.name) else { bail!("{} is in one of them only", p.spec.name) };
            if other.spec.shape != p.spec.shape {
                bail!("{}: {:?} in one, {:?} in the other", p.spec.name, p.spec.shape.dims(), other.spec.shape.dims());
            }
            let tensor = match share {
                1.0 => p.var.as_detached_tensor(),
                0.0 => other.var.as_detached_tensor(),
                share => ((p.var.as_tensor() * share)? + (other.var.as_tensor() * (1.0 - share))?)?,
            };
            Ok((p.spec.clone(), tensor.detach()))
        };
        Self::new(self.iter().map(mix).collect::<Result<_>>()?)
    }

    /// A copy of all numbers that later training does not change.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn snapshot(&self) -> Result<Vec<(String, Tensor)>> {
        self.iter().map(|p| Ok((p.spec.name.clone(), p.var.as_tensor().detach().copy()?))).collect()
    }
}

#[derive(Clone, Copy)]
enum Mode<'a> {
    Declare(&'a RefCell<Vec<ParamSpec>>),
    Train(&'a Params, &'a Rc<Tape>),
    Eval(&'a Params),
}

/// What training does to a weight.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Decayed,
    NotDecayed,
    Buffer,
}

/// Hands weights to layers' constructors. Cheap to copy; [`Builder::enter`] goes one name deeper.
#[derive(Clone)]
pub struct Builder<'a> {
    mode: Mode<'a>,
    prefix: String,
    part: Part,
    depth: Depth,
    recomputes: bool,
    products: DType,
    often: bool,
    numbers: DType,
    noise: Option<&'a Rc<Noise>>,
}

impl<'a> Builder<'a> {
    fn new(mode: Mode<'a>) -> Self {
        let (part, depth, products, numbers) = (Part::Heads, Depth::Final, DType::F32, DType::F32);
        // Inference goes through batch after batch.
        let often = matches!(mode, Mode::Eval(_));
        Self { mode, prefix: String::new(), part, depth, recomputes: false, products, often, numbers, noise: None }
    }

    /// Whether blocks keep only their input for the backward pass and compute the rest again then.
    pub fn recompute(&self, recomputes: bool) -> Self {
        Self { recomputes, ..self.clone() }
    }

    /// In which type products with the weights are worked out: f32, or bf16 with sums in f32. Weights, their gradients,
    /// norms and the residual stream are f32 either way.
    pub fn products(&self, products: DType) -> Self {
        Self { products, ..self.clone() }
    }

    /// In which type weights are handed out: f64 for a reference that what is worked out in f32 is compared with.
    pub fn numbers(&self, numbers: DType) -> Self {
        Self { numbers, ..self.clone() }
    }

    /// Whether each weight is used several times while the model lives, as by several chunks of a step: matrices are
    /// then rounded to bf16 and packed once, and kept so, where products are in it.
    pub fn used_often(&self, often: bool) -> Self {
        Self { often, ..self.clone() }
    }

    /// What layers shall drop.
    pub fn noise(&self, noise: &'a Rc<Noise>) -> Self {
        Self { noise: Some(noise).filter(|noise| !noise.is_off()), ..self.clone() }
    }

    /// What [`Builder::noise`] was told, with this place's name.
    pub(super) fn noise_here(&self) -> Option<(Rc<Noise>, String)> {
        self.noise.map(|noise| (Rc::clone(noise), self.prefix.clone()))
    }

    /// The adapter of the layer of this place, A (rank, in) and B (out, rank), and what their product is multiplied by.
    ///
    /// # Errors
    /// One of the two without the other.
    pub(super) fn adapter(&self) -> Result<Option<(Value, Value, f64)>> {
        let params = match self.mode {
            Mode::Declare(_) => return Ok(None),
            Mode::Train(params, _) | Mode::Eval(params) => params,
        };
        let (Some(scale), Some(a)) = (params.adapter_scale, params.get(&format!("{}{LORA_A}", self.prefix))) else {
            return Ok(None);
        };
        let (out, rank) = match params.get(&format!("{}{LORA_B}", self.prefix)) {
            Some(b) => b.spec.shape.dims2()?,
            None => bail!("{}: an adapter has no lora_B", self.prefix),
        };
        let inner = a.spec.shape.dims2()?.1;
        let weight = |name: &str, shape| self.matrix(name, shape, Init::Const(0.0));
        let (a, b) = (weight("lora_A.weight", (rank, inner))?, weight("lora_B.weight", (out, rank))?);
        Ok(Some((a, b, scale)))
    }

    /// What [`Builder::recompute`] was told.
    pub fn recomputes(&self) -> bool {
        self.recomputes
    }

    /// Collects the specs of everything that is asked for; the tensors handed out are placeholders.
    pub fn declare(specs: &'a RefCell<Vec<ParamSpec>>) -> Self {
        Self::new(Mode::Declare(specs))
    }

    /// Weights for training: trainable ones are leaves of `tape`, by their number in `params`; frozen ones constants.
    pub fn train(params: &'a Params, tape: &'a Rc<Tape>) -> Self {
        Self::new(Mode::Train(params, tape))
    }

    /// The same numbers (shared, so always up to date) as constants.
    pub fn eval(params: &'a Params) -> Self {
        Self::new(Mode::Eval(params))
    }

    /// One name deeper: `vision_model` → `vision_model.encoder`.
    pub fn enter(&self, name: &str) -> Self {
        let prefix = if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) };
        Self { prefix, ..self.clone() }
    }

    /// Marks what follows as belonging to `part`.
    pub fn part(&self, part: Part) -> Self {
        Self { part, ..self.clone() }
    }

    /// Marks what follows as sitting at `depth`.
    pub fn depth(&self, depth: Depth) -> Self {
        Self { depth, ..self.clone() }
    }

    /// A weight that is decayed.
    ///
    /// # Errors
    /// No weight of this name (a loader's fault: it checks all names first).
    pub fn matrix(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Value> {
        self.param(name, shape.into(), init, Kind::Decayed)
    }

    /// A weight that is not decayed: bias, norm, position, logit_scale.
    ///
    /// # Errors
    /// As [`Builder::matrix`].
    pub fn vector(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Value> {
        self.param(name, shape.into(), init, Kind::NotDecayed)
    }

    /// A number that is never trained.
    ///
    /// # Errors
    /// As [`Builder::matrix`].
    pub fn buffer(&self, name: &str, shape: impl Into<Shape>, init: Init) -> Result<Value> {
        self.param(name, shape.into(), init, Kind::Buffer)
    }

    fn param(&self, name: &str, shape: Shape, init: Init, kind: Kind) -> Result<Value> {
        let name = self.enter(name).prefix;
        let find = |params: &'a Params| match params.index.get(&name) {
            Some(&number) => Ok((number, &params.list[number])),
            None => bail!("no weight {name} was loaded"),
        };
        let value = match self.mode {
            Mode::Declare(specs) => {
                let placeholder = Tensor::zeros((), DType::F32, &Device::Cpu)?.broadcast_as(shape.clone())?;
                let (part, depth) = (self.part, self.depth);
                let (decay, buffer) = (kind == Kind::Decayed, kind == Kind::Buffer);
                specs.borrow_mut().push(ParamSpec { name, shape, init, part, depth, decay, buffer });
                placeholder.into()
            }
            Mode::Train(params, tape) => {
                let (number, p) = find(params)?;
                let tensor = p.var.as_detached_tensor().to_dtype(self.numbers)?;
                if p.trainable { tape.leaf(number, tensor) } else { tensor.into() }
            }
            Mode::Eval(params) => find(params)?.1.var.as_detached_tensor().to_dtype(self.numbers)?.into(),
        };
        let value = value.with_products(self.products);
        Ok(if self.often { value.used_often() } else { value })
    }
}
