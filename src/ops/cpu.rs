//! Plain access to the numbers of CPU tensors, shared by the fused kernels.

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor, bail};

/// Rows handled by one task.
pub(super) const ROWS_PER_TASK: usize = 16;

/// Whether the fused kernels can take this tensor; other devices and types go through [`super::reference`].
pub(super) fn is_cpu_f32(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The contiguous numbers behind a storage.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("a fused kernel got a tensor that is not contiguous: {layout:?}"),
    }
}

/// Calls `f` with the contiguous numbers of `x`.
pub(super) fn with_slice<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => Ok(f(slice(cpu, layout)?)),
        _ => bail!("a CPU kernel got a tensor of another device"),
    }
}
