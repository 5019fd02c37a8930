//! How a kernel is run: on the GPU, compiled by NVRTC at its first use; in tests of a machine without one, by the
//! emulator.

use candle_core::{Result, Tensor};

/// An argument of a kernel. Without a GPU's build nobody looks at it but the tests' emulator.
#[cfg_attr(not(any(feature = "cuda", test)), allow(dead_code))]
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    /// Contiguous numbers, f32 or u32; the kernel may change them.
    Tensor(&'a Tensor),
    Int(usize),
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
    use std::sync::OnceLock;

    use candle_core::cuda_backend::cudarc::driver::{CudaView, LaunchConfig, PushKernelArg};
    use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
    use candle_core::{CudaDevice, DType, Result, Storage, bail};

    use super::{Arg, Grid, THREADS};

    /// For the oldest GPU that NVRTC knows: the driver translates it for the one that is there.
    fn ptx() -> Result<&'static str> {
        static PTX: OnceLock<std::result::Result<String, String>> = OnceLock::new();
        let compile = || {
            let source = include_str!("kernels.cu");
            let ptx = compile_ptx_with_opts(source, CompileOptions::default()).map_err(|e| e.to_string())?;
            Ok(ptx.to_src())
        };
        match PTX.get_or_init(compile) {
            Ok(ptx) => Ok(ptx),
            Err(e) => bail!("NVRTC does not compile the kernels: {}", e.lines().next().unwrap_or_default()),
        }
    }

    enum Passed<'a> {
        Floats(CudaView<'a, f32>),
        Words(CudaView<'a, u32>),
        Int(i32),
        Float(f32),
    }

    pub(super) fn launch(device: &CudaDevice, kernel: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
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
                        DType::U32 => Passed::Words(storage.as_cuda_slice::<u32>()?.slice(start..end)),
                        other => bail!("{kernel}: takes f32 and u32, not {other:?}"),
                    }
                }
                (Arg::Int(value), _) => match i32::try_from(*value) {
                    Ok(value) => Passed::Int(value),
                    Err(_) => bail!("{kernel}: {value} is too large for 32 bits"),
                },
                (Arg::Float(value), _) => Passed::Float(*value as f32),
                (Arg::Tensor(_), None) => bail!("{kernel}: a tensor without storage"),
            });
        }
        let function = device.get_or_load_custom_func(kernel, "reportclip", ptx()?)?;
        let mut builder = function.builder();
        for arg in &passed {
            match arg {
                Passed::Floats(view) => builder.arg(view),
                Passed::Words(view) => builder.arg(view),
                Passed::Int(value) => builder.arg(value),
                Passed::Float(value) => builder.arg(value),
            };
        }
        let config = LaunchConfig {
            grid_dim: (grid.0 as u32, grid.1 as u32, grid.2 as u32),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: kernel and arguments stand side by side in this folder, and the emulator refuses in tests what does
        // not fit; kernels stay within the counts that they are given.
        match unsafe { builder.launch(config) } {
            Ok(_) => Ok(()),
            Err(e) => bail!("{kernel}: {e}"),
        }
    }
}
