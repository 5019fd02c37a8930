//! Opening a GPU, and what its memory holds.

use candle_core::{Device, Result, Tensor};

/// MiB of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuMemory {
    /// In use now, everybody's.
    pub in_use: u64,
    /// The most that this process's tensors took at once.
    pub peak: u64,
}

/// The GPU of this number, as everything here expects it. One stream for all threads: weights are uploaded by many, and
/// what the others do later must come after. `several_streams`: sums over processes travel on a stream of their own,
/// for which every tensor needs events that keep streams in order; without, nobody pays for them.
///
/// # Errors
/// CUDA's libraries are not there, or no such GPU.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub fn open_gpu(index: usize, several_streams: bool) -> Result<Device> {
    super::libraries::open().map_err(candle_core::Error::Msg)?;
    let device = Device::new_cuda_with_stream(index)?;
    if let Device::Cuda(cuda) = &device {
        if !several_streams {
            // SAFETY: no tensor is there yet, and all will be used on the one stream.
            unsafe { cuda.disable_event_tracking() };
        }
        // SAFETY: the context is open.
        if let Err(e) = unsafe { pool::keep_memory(index) } {
            tracing::debug!("the GPU's memory pool gives memory back at each synchronisation: {e}");
        }
    }
    Ok(device)
}

/// The GPU of this number.
///
/// # Errors
/// This program was built without CUDA.
#[cfg(not(feature = "cuda"))]
pub fn open_gpu(_index: usize, _several_streams: bool) -> Result<Device> {
    candle_core::bail!("this binary was built without the cuda feature")
}

/// Whether convolutions of `x` can be worked out: elsewhere than on a GPU they can.
///
/// # Errors
/// This program has them done by cuDNN, which could not be opened.
#[cfg(feature = "cudnn")]
pub(in crate::ops) fn check_convolutions(x: &Tensor) -> Result<()> {
    if !x.device().is_cuda() {
        return Ok(());
    }
    super::libraries::cudnn_is_open().map_err(candle_core::Error::Msg)
}

/// Whether convolutions of `x` can be worked out.
///
/// # Errors
/// None: this program has candle's own.
#[cfg(not(feature = "cudnn"))]
pub(in crate::ops) fn check_convolutions(_x: &Tensor) -> Result<()> {
    Ok(())
}

/// How many GPUs there are.
///
/// # Errors
/// CUDA's libraries are not there, or the driver does not answer.
#[cfg(feature = "cuda")]
pub fn gpu_count() -> Result<usize> {
    super::libraries::open().map_err(candle_core::Error::Msg)?;
    let count = candle_core::cuda_backend::cudarc::driver::CudaContext::device_count();
    count.map(|count| count as usize).map_err(|e| candle_core::Error::Msg(e.to_string()))
}

/// How many GPUs there are for this program.
///
/// # Errors
/// None.
#[cfg(not(feature = "cuda"))]
pub fn gpu_count() -> Result<usize> {
    Ok(0)
}

/// Memory of the GPU; `None` where `device` is none.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
pub fn gpu_memory(device: &Device) -> Option<GpuMemory> {
    let Device::Cuda(cuda) = device else { return None };
    let stream = cuda.cuda_stream();
    let context = stream.context();
    let (free, all) = context.mem_get_info().ok()?;
    // SAFETY: the context is open.
    let peak = unsafe { pool::peak(context.ordinal()) }.ok()?;
    Some(GpuMemory { in_use: ((all - free) >> 20) as u64, peak: peak >> 20 })
}

/// Memory of the GPU: this program knows none.
#[cfg(not(feature = "cuda"))]
pub fn gpu_memory(_device: &Device) -> Option<GpuMemory> {
    None
}

/// The driver's pool, which tensors come from.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod pool {
    use candle_core::cuda_backend::cudarc::driver::DriverError;
    use candle_core::cuda_backend::cudarc::driver::result::{device, mem_pool};
    use candle_core::cuda_backend::cudarc::driver::sys::CUmemPool_attribute;

    /// Freed memory stays in the pool: by default each synchronisation hands it back to the driver, and the next step
    /// asks for it again.
    pub(super) unsafe fn keep_memory(index: usize) -> Result<(), DriverError> {
        let mut all = u64::MAX;
        let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a u64; the caller opened the context.
        unsafe {
            let pool = device::get_default_mem_pool(device::get(index as i32)?)?;
            mem_pool::set_attribute(pool, threshold, (&raw mut all).cast())
        }
    }

    /// Bytes.
    pub(super) unsafe fn peak(index: usize) -> Result<u64, DriverError> {
        let mut bytes = 0u64;
        let highest = CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: as above.
        unsafe {
            let pool = device::get_default_mem_pool(device::get(index as i32)?)?;
            mem_pool::get_attribute(pool, highest, (&raw mut bytes).cast())?;
        }
        Ok(bytes)
    }
}
