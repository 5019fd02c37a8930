//! Where tensors live: the choice and its reason.

use candle_core::Device;

/// The device for `wanted` (`"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`) and one line saying why.
///
/// # Errors
/// A CUDA device asked for by name that is not there, or a binary built without the `cuda` feature.
pub fn choose(wanted: &str) -> anyhow::Result<(Device, String)> {
    let built_with_cuda = candle_core::utils::cuda_is_available();
    match wanted {
        "auto" if built_with_cuda => match Device::new_cuda(0) {
            Ok(device) => Ok((device, "cuda:0, the first GPU found".into())),
            Err(e) => Ok((Device::Cpu, format!("cpu, because no CUDA device answers ({})", first_line(&e)))),
        },
        "auto" => Ok((Device::Cpu, "cpu, because this binary was built without the cuda feature".into())),
        "cpu" => Ok((Device::Cpu, "cpu, as asked".into())),
        cuda => {
            let index = match cuda.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest)) {
                Some("") => 0,
                Some(n) => {
                    n.parse().map_err(|_| anyhow::anyhow!("device {wanted:?}: allowed are auto, cpu, cuda:N"))?
                }
                None => anyhow::bail!("device {wanted:?}: allowed are auto, cpu, cuda and cuda:N"),
            };
            anyhow::ensure!(
                built_with_cuda,
                "device {wanted:?}: this binary was built without CUDA; use device = \"cpu\", or build it with \
                 `cargo build --release --features cuda`"
            );
            Ok((Device::new_cuda(index)?, format!("{wanted}, as asked")))
        }
    }
}

fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

/// Makes the CPU's kernels use this many threads. Call it before anything else does: the first use fixes the number.
///
/// # Errors
/// It is fixed already, or 0.
pub fn use_threads(threads: usize) -> anyhow::Result<()> {
    anyhow::ensure!(threads > 0, "threads start at 1");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|e| anyhow::anyhow!("cannot use {threads} threads: {e}"))
}
