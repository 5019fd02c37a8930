//! Several processes that train as one: who they are, and what they tell each other.
//!
//! Training code asks a [`Collective`] and does not know how many there are: of one process every exchange is the
//! identity. The processes are started by the cluster's own launcher (`mpirun`, `srun`); each is a rank. A rank that
//! fails ends all of them, see [`fail`].

mod collective;
mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "mpi")]
mod pulse;
mod single;

use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use candle_core::Device;

pub use collective::{Collective, Sum};
pub use launch::{connect, launched};
pub use single::Single;

/// The ranks of `world`, for tensors on `device`: over NCCL where that is a GPU and this binary has it.
///
/// # Errors
/// NCCL does not start.
#[cfg(feature = "nccl")]
pub fn on_device(world: &Rc<dyn Collective>, device: &Device) -> Result<Rc<dyn Collective>> {
    if world.size() == 1 { Ok(Rc::clone(world)) } else { nccl::start(Rc::clone(world), device) }
}

/// The ranks of `world`, for tensors on `device`.
///
/// # Errors
/// None.
#[cfg(not(feature = "nccl"))]
pub fn on_device(world: &Rc<dyn Collective>, _device: &Device) -> Result<Rc<dyn Collective>> {
    Ok(Rc::clone(world))
}

/// Ends all ranks with `code`, since they would wait for this one for ever; of one process, does nothing but `speak`,
/// which tells of the error and gets this rank's name where there are several.
///
/// What goes wrong on all ranks at once is told by the first alone: the others give it time to speak for them.
pub fn fail(world: &Rc<dyn Collective>, code: u8, speak: impl FnOnce(Option<String>)) {
    if world.size() == 1 {
        return speak(None);
    }
    if !world.is_first() {
        // Launchers take a second between asking ranks to end and ending them.
        std::thread::sleep(Duration::from_secs(3));
    }
    speak(Some(world.name(world.rank())));
    end_all(code);
}

#[cfg(feature = "mpi")]
fn end_all(code: u8) {
    pulse::abort(code)
}

#[cfg(not(feature = "mpi"))]
fn end_all(_code: u8) {}
