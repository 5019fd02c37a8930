//! Plain access to the numbers of CPU tensors, shared by the kernels.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Deref;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor, WithDType, bail};
use half::bf16;
use rayon::prelude::*;

use super::gemm;

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
    storage: S,
    start: usize,
    end: usize,
    of: PhantomData<T>,
}

impl<S: Deref<Target = Storage>, T: WithDType> Deref for Numbers<S, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &*self.storage {
            // The type is the right one: `read` has looked.
            Storage::Cpu(all) => all.as_slice().map_or(&[], |all| &all[self.start..self.end]),
            _ => &[],
        }
    }
}

/// The numbers of `x`, which must be contiguous f32 on the CPU.
pub(super) fn read(x: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => Ok(Numbers { storage, start, end, of: PhantomData }),
        _ => bail!("a kernel got a tensor that is not contiguous f32 on the CPU: {:?} {layout:?}", x.dtype()),
    }
}

/// The numbers of `x`, which must be contiguous bf16 on the CPU.
pub(super) fn read_bf16(x: &Tensor) -> Result<impl Deref<Target = [bf16]> + '_> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::BF16(_)), Some((start, end))) => Ok(Numbers { storage, start, end, of: PhantomData }),
        _ => bail!("a kernel got a tensor that is not contiguous bf16 on the CPU: {:?} {layout:?}", x.dtype()),
    }
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
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
            Ok(EitherNumbers::F32(Numbers { storage, start, end, of: PhantomData }))
        }
        (Storage::Cpu(CpuStorage::BF16(_)), Some((start, end))) => {
            Ok(EitherNumbers::Bf16(Numbers { storage, start, end, of: PhantomData }))
        }
        _ => bail!("a kernel got a tensor that is not contiguous f32 or bf16 on the CPU: {:?} {layout:?}", x.dtype()),
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
    let x = x.contiguous()?;
    let numbers = read(&x)?;
    let mut y = vec![bf16::ZERO; numbers.len()];
    y.par_chunks_mut(BLOCK).zip(numbers.par_chunks(BLOCK)).for_each(|(y, x)| gemm::narrow(x, y));
    Tensor::from_vec(y, x.dims(), x.device())
}

/// The numbers of a bf16 tensor on the CPU, in f32.
pub(super) fn to_f32(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let numbers = read_bf16(&x)?;
    let mut y = vec![0f32; numbers.len()];
    y.par_chunks_mut(BLOCK).zip(numbers.par_chunks(BLOCK)).for_each(|(y, x)| gemm::widen(x, y));
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
