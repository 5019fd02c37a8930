//! How a kernel is run: on the GPU, from what build.rs compiled; in tests of a machine without one, by the emulator.

use candle_core::{Result, Tensor};

/// An argument of a kernel. Without a GPU's build nobody looks at it but the tests' emulator.
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// Contiguous numbers, f32 or u32; the kernel may change them.
    Tensor(&'a Tensor),
    /// 32 bits.
    Int(usize),
    /// 64 bits: tensors may have more than 2³¹ numbers.
    Count(usize),
    Float(f64),
}

/// Threads of a block, as kernels.cu has them.
pub(super) const THREADS: usize = 128;

/// Blocks in x, y and z.
pub(super) type Grid = (usize, usize, usize);

/// Blocks over `count` threads.
pub(super) fn over(count: usize) -> Grid {
    (count.div_ceil(THREADS), 1, 1)
}

/// Runs the kernel of this name on the device of its tensors.
#[cfg(feature = "cuda")]
pub(super) fn launch(kernel: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
    let first = args.iter().find_map(|arg| match arg {
        Arg::Tensor(tensor) => Some(tensor.device().clone()),
        _ => None,
    });
    match first {
        Some(candle_core::Device::Cuda(device)) => gpu::launch(&device, kernel, grid, args),
        _ => elsewhere(kernel, grid, args),
    }
}

#[cfg(not(feature = "cuda"))]
pub(super) fn launch(kernel: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
    elsewhere(kernel, grid, args)
}

#[cfg(not(test))]
fn elsewhere(kernel: &'static str, _grid: Grid, _args: &[Arg]) -> Result<()> {
    candle_core::bail!("the kernel {kernel} is for GPUs")
}

#[cfg(test)]
use super::emulator::launch as elsewhere;

#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod gpu {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;
    use std::sync::{Arc, Mutex, PoisonError};

    use candle_core::cuda_backend::DeviceId;
    use candle_core::cuda_backend::cudarc::driver::{CudaFunction, CudaModule, CudaView, LaunchConfig, PushKernelArg};
    use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
    use candle_core::{CudaDevice, DType, Result, Storage, bail};
    use half::bf16;

    use super::{Arg, Grid, THREADS};

    /// Of several compute capabilities; the driver takes what fits its GPU.
    const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

    /// What a device has loaded.
    struct Loaded {
        module: Arc<CudaModule>,
        functions: HashMap<&'static str, CudaFunction>,
    }

    fn function(device: &CudaDevice, kernel: &'static str) -> Result<CudaFunction> {
        static LOADED: Mutex<Option<HashMap<DeviceId, Loaded>>> = Mutex::new(None);
        let mut all = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        let loaded = match all.entry(device.id()) {
            Entry::Occupied(loaded) => loaded.into_mut(),
            Entry::Vacant(place) => place.insert(Loaded { module: load(device)?, functions: HashMap::new() }),
        };
        if let Some(function) = loaded.functions.get(kernel) {
            return Ok(function.clone());
        }
        match loaded.module.load_function(kernel) {
            Ok(function) => Ok(loaded.functions.entry(kernel).or_insert(function).clone()),
            Err(e) => bail!("{kernel}: not among the kernels: {e}"),
        }
    }

    fn load(device: &CudaDevice) -> Result<Arc<CudaModule>> {
        let module = device.cuda_stream().context().load_module(Ptx::from_binary(KERNELS.to_vec()));
        module.map_err(|e| {
            candle_core::Error::Msg(format!(
                "the driver does not take the kernels, built for compute capability 8.0 and more: {e}"
            ))
        })
    }

    enum Passed<'a> {
        Floats(CudaView<'a, f32>),
        Halves(CudaView<'a, bf16>),
        Doubles(CudaView<'a, f64>),
        Words(CudaView<'a, u32>),
        Bytes(CudaView<'a, u8>),
        Int(i32),
        Count(u64),
        Float(f32),
    }

    pub(super) fn launch(device: &CudaDevice, kernel: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        let guards: Vec<_> = args
            .iter()
            .map(|arg| match arg {
                Arg::Tensor(tensor) => Some(tensor.storage_and_layout()),
                _ => None,
            })
            .collect();
        let mut passed = Vec::with_capacity(args.len());
        for (arg, guard) in args.iter().zip(&guards) {
            passed.push(match (arg, guard) {
                (Arg::Tensor(tensor), Some((storage, layout))) => {
                    let (Storage::Cuda(storage), Some((start, end))) = (&**storage, layout.contiguous_offsets()) else {
                        bail!("{kernel}: a tensor is not contiguous, or not on the GPU");
                    };
                    match tensor.dtype() {
                        DType::F32 => Passed::Floats(storage.as_cuda_slice::<f32>()?.slice(start..end)),
                        DType::BF16 => Passed::Halves(storage.as_cuda_slice::<bf16>()?.slice(start..end)),
                        DType::F64 => Passed::Doubles(storage.as_cuda_slice::<f64>()?.slice(start..end)),
                        DType::U32 => Passed::Words(storage.as_cuda_slice::<u32>()?.slice(start..end)),
                        DType::U8 => Passed::Bytes(storage.as_cuda_slice::<u8>()?.slice(start..end)),
                        other => bail!("{kernel}: takes f32, bf16, f64, u32 and u8, not {other:?}"),
                    }
                }
                (Arg::Int(value), _) => match i32::try_from(*value) {
                    Ok(value) => Passed::Int(value),
                    Err(_) => bail!("{kernel}: {value} is too large for 32 bits"),
                },
                (Arg::Count(value), _) => Passed::Count(*value as u64),
                (Arg::Float(value), _) => Passed::Float(*value as f32),
                (Arg::Tensor(_), None) => bail!("{kernel}: a tensor without storage"),
            });
        }
        let function = function(device, kernel)?;
        let stream = device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for arg in &passed {
            match arg {
                Passed::Floats(view) => builder.arg(view),
                Passed::Halves(view) => builder.arg(view),
                Passed::Doubles(view) => builder.arg(view),
                Passed::Words(view) => builder.arg(view),
                Passed::Bytes(view) => builder.arg(view),
                Passed::Int(value) => builder.arg(value),
                Passed::Count(value) => builder.arg(value),
                Passed::Float(value) => builder.arg(value),
            };
        }
        let blocks = [grid.0, grid.1, grid.2].map(u32::try_from);
        let [Ok(x), Ok(y @ ..=65_535), Ok(z @ ..=65_535)] = blocks else {
            bail!("{kernel}: {grid:?} blocks; a GPU takes 2³¹ × 65,535 × 65,535");
        };
        let config = LaunchConfig { grid_dim: (x, y, z), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: kernel and arguments stand side by side in this folder, and the emulator refuses in tests what does
        // not fit; kernels stay within the counts that they are given.
        match unsafe { builder.launch(config) } {
            Ok(_) => Ok(()),
            Err(e) => bail!("{kernel}: {e}"),
        }
    }
}
