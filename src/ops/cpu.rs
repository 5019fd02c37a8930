//! Plain access to the numbers of CPU tensors, shared by the kernels.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};
use half::bf16;
use rayon::prelude::*;

use super::alloc::{AnyBits, overwritten};
use super::round;

/// Rows handled by one task.
pub(super) const ROWS_PER_TASK: usize = 16;
/// Numbers handled by one task of an element-wise loop.
pub(super) const BLOCK: usize = 1 << 14;

/// Whether the kernels can take this tensor; other devices and types go through [`super::reference`].
pub(super) fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Whether this is a CPU tensor of bf16, which products and attention can take.
pub(super) fn is_bf16(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::BF16
}

/// The numbers of a contiguous CPU tensor, readable while this lives.
pub(super) struct Numbers<S, T> {
    part: Part<S>,
    of: PhantomData<T>,
}

/// The part of a CPU storage that a contiguous tensor has.
struct Part<S> {
    storage: S,
    start: usize,
    end: usize,
}

impl<S, T> From<Part<S>> for Numbers<S, T> {
    /// Of a tensor of that type.
    fn from(part: Part<S>) -> Self {
        Self { part, of: PhantomData }
    }
}

impl<S: Deref<Target = Storage>, T: WithDType> Deref for Numbers<S, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let Part { storage, start, end } = &self.part;
        match &**storage {
            // The type is the right one: who made this has looked.
            Storage::Cpu(all) => all.as_slice().map_or(&[], |all| &all[*start..*end]),
            _ => &[],
        }
    }
}

/// `None` where a tensor is not contiguous on the CPU.
fn part(x: &Tensor) -> Option<Part<impl Deref<Target = Storage> + '_>> {
    let (storage, layout) = x.storage_and_layout();
    let (start, end) = layout.contiguous_offsets()?;
    matches!(&*storage, Storage::Cpu(_)).then_some(Part { storage, start, end })
}

fn other_than<T>(x: &Tensor, wanted: &str) -> Result<T> {
    bail!("a kernel got a tensor that is not contiguous {wanted} on the CPU: {:?} {:?}", x.dtype(), x.layout())
}

/// The numbers of `x`, which must be contiguous of this type on the CPU.
fn read_as<T: WithDType>(x: &Tensor) -> Result<impl Deref<Target = [T]> + '_> {
    match part(x).filter(|_| x.dtype() == T::DTYPE) {
        Some(part) => Ok(Numbers::<_, T>::from(part)),
        None => other_than(x, T::DTYPE.as_str()),
    }
}

/// The numbers of `x`, which must be contiguous f32 on the CPU.
pub(super) fn read(x: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    read_as(x)
}

/// The numbers of a tensor of either type, readable while this lives.
pub(super) enum EitherNumbers<S> {
    F32(Numbers<S, f32>),
    Bf16(Numbers<S, bf16>),
}

/// Numbers of either type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Either<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<S: Deref<Target = Storage>> EitherNumbers<S> {
    pub fn get(&self) -> Either<'_> {
        match self {
            Self::F32(numbers) => Either::F32(numbers),
            Self::Bf16(numbers) => Either::Bf16(numbers),
        }
    }
}

impl Either<'_> {
    /// From number `start` on.
    pub fn from(&self, start: usize) -> Self {
        match self {
            Self::F32(numbers) => Self::F32(&numbers[start..]),
            Self::Bf16(numbers) => Self::Bf16(&numbers[start..]),
        }
    }
}

/// The numbers of `x`, which must be contiguous f32 or bf16 on the CPU.
pub(super) fn read_either(x: &Tensor) -> Result<EitherNumbers<impl Deref<Target = Storage> + '_>> {
    match (part(x), x.dtype()) {
        (Some(part), DType::F32) => Ok(EitherNumbers::F32(part.into())),
        (Some(part), DType::BF16) => Ok(EitherNumbers::Bf16(part.into())),
        _ => other_than(x, "f32 or bf16"),
    }
}

/// Changes the numbers of `x` in place: every tensor that shares its storage sees it. Returns what `change` does.
pub(super) fn write<T>(x: &Tensor, change: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
    let call = Write { change: RefCell::new(Some(change)), result: RefCell::new(None) };
    x.inplace_op1(&call)?;
    match call.result.into_inner() {
        Some(result) => Ok(result),
        None => bail!("a kernel changes only contiguous f32 tensors on the CPU"),
    }
}

/// candle lends a tensor's numbers for writing only to an operation of its own kind, by shared reference.
struct Write<F, T> {
    change: RefCell<Option<F>>,
    result: RefCell<Option<T>>,
}

impl<T, F: FnOnce(&mut [f32]) -> T> InplaceOp1 for Write<F, T> {
    fn name(&self) -> &'static str {
        "write"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        if let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets()) {
            let change = self.change.borrow_mut().take();
            *self.result.borrow_mut() = change.map(|change| change(&mut all[start..end]));
        }
        Ok(())
    }
}

/// The contiguous numbers behind a storage, as candle lends them to its operations.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a kernel got a tensor that is not contiguous: {layout:?}"),
    }
}

/// The numbers of an f32 tensor on the CPU, rounded to bf16.
pub(super) fn to_bf16(x: &Tensor) -> Result<Tensor> {
    converted(x, round::narrow)
}

/// The numbers of a bf16 tensor on the CPU, in f32.
pub(super) fn to_f32(x: &Tensor) -> Result<Tensor> {
    converted(x, round::widen)
}

fn converted<T: WithDType, U: WithDType + AnyBits>(x: &Tensor, convert: fn(&[T], &mut [U])) -> Result<Tensor> {
    let x = x.contiguous()?;
    let numbers = read_as::<T>(&x)?;
    let mut y = overwritten::<U>(numbers.len());
    y.par_chunks_mut(BLOCK).zip(numbers.par_chunks(BLOCK)).for_each(|(y, x)| convert(x, y));
    Tensor::from_vec(y, x.dims(), x.device())
}

/// `x` itself, in f32 where it is in bf16 on the CPU.
pub(super) fn widened(x: Tensor) -> Result<Tensor> {
    if is_bf16(&x) { to_f32(&x) } else { Ok(x) }
}

/// The numbers rounded to bf16, in the type that they have. By way of f32: the half crate cuts off the end of an f64
/// before it rounds.
pub(super) fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.to_dtype(DType::BF16)?.to_dtype(DType::F32)?.to_dtype(x.dtype())
}
