//! Runs kernels.cu through emulator.cpp, on CPU tensors: tests on machines without a GPU.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Result, Tensor, bail};
use half::bf16;

use super::launch::{Arg, Grid};
use crate::ops::cpu;

/// The emulator, built once; `None` where there is no C++ compiler.
fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/ops/cuda");
        let program = std::env::temp_dir().join(format!("reportclip-emulator-{}", std::process::id()));
        let mut compiler = Command::new("g++");
        compiler.args(["-std=c++20", "-O2", "-w", "-pthread", "-o"]).arg(&program).arg(folder.join("emulator.cpp"));
        let output = compiler.output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(program)
    };
    PROGRAM.get_or_init(build).as_ref()
}

/// Whether kernels can be run here.
pub(super) fn is_there() -> bool {
    program().is_some()
}

pub(super) fn launch(kernel: &'static str, grid: Grid, args: &[Arg]) -> Result<()> {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let Some(program) = program() else { bail!("no emulator") };
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    let file = std::env::temp_dir().join(format!("reportclip-kernel-{}-{call}", std::process::id()));
    let mut bytes: Vec<u8> = Vec::new();
    let mut word = |n: u32| bytes.extend(n.to_le_bytes());
    [grid.0, grid.1, grid.2, args.len()].into_iter().for_each(|n| word(n as u32));
    for arg in args {
        match arg {
            Arg::Int(n) => [1, *n as u32].into_iter().for_each(&mut word),
            Arg::Count(n) => [3, *n as u32].into_iter().for_each(&mut word),
            Arg::Float(x) => [2, (*x as f32).to_bits()].into_iter().for_each(&mut word),
            Arg::Tensor(tensor) => {
                assert!(tensor.is_contiguous(), "{kernel}: a tensor is not contiguous");
                let words = words(tensor)?;
                [0, words.len() as u32].into_iter().for_each(&mut word);
                words.into_iter().for_each(&mut word);
            }
        }
    }
    std::fs::write(&file, &bytes)?;
    let status = Command::new(program).arg(kernel).arg(&file).status()?;
    assert!(status.success(), "{kernel}: {status}; 4 means arguments that do not fit");
    let left = std::fs::read(&file)?;
    std::fs::remove_file(&file)?;
    let mut left = left.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four));
    for arg in args {
        let Arg::Tensor(tensor) = arg else { continue };
        let numbers: Vec<u32> = left.by_ref().take(words(tensor)?.len()).collect();
        match tensor.dtype() {
            DType::F32 => {
                cpu::write(tensor, |to| to.iter_mut().zip(numbers).for_each(|(to, bits)| *to = f32::from_bits(bits)))?;
            }
            DType::BF16 => {
                let halves = numbers.into_iter().flat_map(|two| [two as u16, (two >> 16) as u16]);
                let halves: Vec<_> = halves.map(bf16::from_bits).take(tensor.elem_count()).collect();
                let flat = tensor.flatten_all()?;
                flat.slice_set(&Tensor::from_vec(halves, flat.dims(), tensor.device())?, 0, 0)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The numbers as they lie in memory, in words of 4 bytes, with zeros after the last.
fn words(tensor: &Tensor) -> Result<Vec<u32>> {
    let flat = tensor.flatten_all()?;
    let bytes: Vec<u8> = match tensor.dtype() {
        DType::U32 => return flat.to_vec1(),
        DType::F32 => return Ok(flat.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect()),
        DType::BF16 => flat.to_vec1::<bf16>()?.into_iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::U8 => flat.to_vec1()?,
        other => bail!("the emulator takes no {other:?}"),
    };
    Ok(bytes.chunks(4).map(|b| u32::from_le_bytes(std::array::from_fn(|i| b.get(i).copied().unwrap_or(0)))).collect())
}
