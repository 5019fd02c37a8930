//! Whether a launcher started this process as one of several.

use std::rc::Rc;

use anyhow::Result;

use super::Single;
use super::collective::Collective;

/// Names under which launchers tell how many processes they started: Open MPI, MPICH and Intel MPI, Slurm's steps.
const SIZES: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// How many processes a launcher started together with this one; 1 without a launcher.
pub fn launched() -> usize {
    let size = |name: &&str| std::env::var(name).ok()?.parse().ok();
    SIZES.iter().find_map(size).unwrap_or(1)
}

/// The ranks that this process is one of: over MPI where a launcher started several.
///
/// # Errors
/// Several were started, and this binary has no MPI, or MPI does not know of the others.
pub fn connect() -> Result<Rc<dyn Collective>> {
    match launched() {
        0 | 1 => Ok(Rc::new(Single)),
        several => over_mpi(several),
    }
}

#[cfg(feature = "mpi")]
fn over_mpi(several: usize) -> Result<Rc<dyn Collective>> {
    let world = super::mpi::Mpi::start()?;
    anyhow::ensure!(
        world.size() == several,
        "the launcher started {several} processes, but MPI sees {}: they do not speak the same MPI; with Slurm try \
         `srun --mpi=pmix`, else use the mpirun of the MPI that this binary was built with",
        world.size()
    );
    Ok(Rc::new(world))
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(several: usize) -> Result<Rc<dyn Collective>> {
    anyhow::bail!(
        "a launcher started {several} processes, but this binary was built without MPI: each would train alone and \
         write the same files; build it with `cargo build --release --features mpi`, or start it without the launcher"
    )
}
