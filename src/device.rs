//! Where tensors live: the choice and its reason.

use std::sync::Mutex;

use candle_core::Device;

use crate::ops;

/// The device for `wanted` (`"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`) and one line saying why. Of several processes on
/// a host, `(local rank, how many)`, each takes a GPU of its own unless one is named.
///
/// # Errors
/// A CUDA device asked for by name that is not there, or a binary built without the `cuda` feature; more processes than
/// GPUs, on all of them alike.
pub fn choose(wanted: &str, (rank, ranks): (usize, usize)) -> anyhow::Result<(Device, String)> {
    let built_with_cuda = candle_core::utils::cuda_is_available();
    let which = if ranks > 1 { format!("that of local rank {rank}") } else { "the first GPU found".into() };
    let one_each = || match ops::gpu_count() {
        Ok(gpus) => check_one_each(wanted, gpus, ranks),
        // What is wrong is told by the attempt to open one.
        Err(_) => Ok(()),
    };
    match wanted {
        "auto" if built_with_cuda => {
            one_each()?;
            match ops::open_gpu(rank, ranks > 1) {
                Ok(device) => Ok((device, format!("cuda:{rank}, {which}"))),
                Err(e) => {
                    Ok((Device::Cpu, format!("cpu, because CUDA device {rank} does not answer ({})", first_line(&e))))
                }
            }
        }
        "auto" => Ok((Device::Cpu, "cpu, because this binary was built without the cuda feature".into())),
        "cpu" => Ok((Device::Cpu, "cpu, as asked".into())),
        cuda => {
            let Some(named) = gpu(cuda) else { anyhow::bail!("device {wanted:?}: allowed are {NAMES}") };
            anyhow::ensure!(
                built_with_cuda,
                "device {wanted:?}: this binary was built without CUDA; use device = \"cpu\", or build it with \
                 `cargo build --release --features cuda`"
            );
            if named.is_none() {
                one_each()?;
            }
            let index = named.unwrap_or(rank);
            let device = ops::open_gpu(index, ranks > 1)
                .map_err(|e| anyhow::anyhow!("device {wanted:?}: GPU {index} does not answer: {}", first_line(&e)))?;
            Ok((device, format!("cuda:{index}, as asked")))
        }
    }
}

/// All that [`choose`] takes, for messages.
pub const NAMES: &str = "auto, cpu, cuda and cuda:N";

/// Whether `wanted` is the name of a device, there or not.
pub fn is_name(wanted: &str) -> bool {
    matches!(wanted, "auto" | "cpu") || gpu(wanted).is_some()
}

/// Of the name of a GPU the number in it, where it has one.
fn gpu(wanted: &str) -> Option<Option<usize>> {
    let number = wanted.strip_prefix("cuda").map(|rest| rest.strip_prefix(':').unwrap_or(rest))?;
    if number.is_empty() { Some(None) } else { number.parse().ok().map(Some) }
}

/// A process without a GPU would train on the CPU, and the others would wait for it where they exchange over the GPUs.
fn check_one_each(wanted: &str, gpus: usize, processes: usize) -> anyhow::Result<()> {
    anyhow::ensure!(
        gpus == 0 || processes <= gpus,
        "device {wanted:?}: {processes} processes on this host and {gpus} GPUs, of which each process takes one; start \
         {gpus} processes on it, or use device = \"cpu\""
    );
    Ok(())
}

fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}

/// Of several processes on this host, each uses its part of `all` cores, unless `RAYON_NUM_THREADS` says how many. Call
/// it before anything else uses threads.
///
/// # Errors
/// None in practice.
pub fn share_cores(processes: usize, all: usize) -> anyhow::Result<()> {
    if processes <= 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return Ok(());
    }
    let ours = own_cores();
    if ours * processes < all {
        tracing::warn!(
            "this process may use {ours} of {all} cores, because the launcher bound it; with Open MPI, mpirun \
             --bind-to none lets {processes} processes use all"
        );
    }
    // A process that was bound has its cores for itself.
    use_threads(if ours < all { ours } else { (all / processes).max(1) })
}

/// Cores that this process may use.
fn own_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Starts the threads of the CPU's kernels: one a core, or as many as `RAYON_NUM_THREADS` says, within reason. Where
/// the system allows no such number, fewer: the first use of threads would end the process.
pub fn start_threads() {
    // Linux lends the registers of bf16 products to threads that start afterwards.
    ops::bf16_support();
    let cores = own_cores();
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|&n| n > 0);
    let wanted = asked.unwrap_or(cores);
    let most = wanted.min(MOST_A_CORE * cores);
    let threads = possible_threads(most + OTHERS).saturating_sub(OTHERS).clamp(1, most);
    // It fails where there are threads already, as in a test that runs several commands: they stay.
    let _ = with_this_thread(threads).build_global();
    if threads < wanted {
        tracing::warn!("{threads} threads do the work, not {wanted} (RAYON_NUM_THREADS, {cores} cores, ulimit -u)");
    }
}

/// Threads that are started later: one that reads data, one that waits for Ctrl-C.
const OTHERS: usize = 2;

/// Handing work round among thousands of threads takes longer than the work.
const MOST_A_CORE: usize = 8;

/// This thread is one of them: it works on what it hands out, instead of falling asleep and being woken for each of the
/// thousands of loops of a step.
fn with_this_thread(threads: usize) -> rayon::ThreadPoolBuilder {
    rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread()
}

/// How many of `wanted` threads, this one among them, the system lets live at once.
fn possible_threads(wanted: usize) -> usize {
    let gate = Mutex::new(());
    std::thread::scope(|scope| {
        let closed = gate.lock();
        let wait = || std::thread::Builder::new().spawn_scoped(scope, || drop(gate.lock())).is_ok();
        let others = (1..wanted).take_while(|_| wait()).count();
        drop(closed);
        1 + others
    })
}

/// Makes the CPU's kernels use this many threads. Call it before anything else does: the first use fixes the number.
///
/// # Errors
/// It is fixed already, 0, or many more than there are cores.
pub fn use_threads(threads: usize) -> anyhow::Result<()> {
    ops::bf16_support();
    let most = MOST_A_CORE * own_cores();
    anyhow::ensure!((1..=most).contains(&threads), "threads: {threads}; allowed here are 1 to {most}, 8 a core");
    // A single one is a thread beside this one: loaders' threads would wait for this one, which waits for them.
    let pool = match threads {
        1 => rayon::ThreadPoolBuilder::new().num_threads(1),
        _ => with_this_thread(threads),
    };
    pool.build_global().map_err(|e| anyhow::anyhow!("cannot use {threads} threads: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surplus_processes_are_refused_on_all() {
        assert!(check_one_each("auto", 2, 2).is_ok());
        assert!(check_one_each("auto", 0, 4).is_ok(), "a host without GPUs trains on its CPU");
        let message = check_one_each("auto", 2, 3).unwrap_err().to_string();
        assert!(message.contains("3 processes on this host and 2 GPUs"), "{message}");
    }
}
