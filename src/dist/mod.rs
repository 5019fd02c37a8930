//! Several processes that train as one: who they are, and what they tell each other.
//!
//! Training code asks a [`Collective`] and does not know how many there are: of one process every exchange is the
//! identity. The processes are started by the cluster's own launcher (`mpirun`, `srun`); each is a rank. A rank that
//! fails ends all of them, see [`fail`].

mod launch;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
#[cfg(feature = "mpi")]
mod pulse;
mod single;

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use launch::{connect, launched};
pub use single::Single;

/// The ranks of a run. All of them make the same calls in the same order.
pub trait Collective {
    /// Number of this one, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Number of this one among those of its host, and how many those are.
    fn local(&self) -> (usize, usize);

    /// "rank 2 on host b".
    fn name(&self, rank: usize) -> String;

    /// What each rank gives, by rank.
    ///
    /// # Errors
    /// A rank is lost; more than 2 GiB.
    fn gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// The rows of all ranks, by rank: (own, width) → (all, width), f32. Ranks may give different numbers of them.
    ///
    /// # Errors
    /// As [`Self::gather_bytes`]; whatever the device reports.
    fn gather_rows(&self, rows: &Tensor) -> Result<Tensor>;

    /// What the first rank gives. The others give a tensor of the same shape, f32.
    ///
    /// # Errors
    /// As [`Self::gather_rows`].
    fn broadcast(&self, tensor: &Tensor) -> Result<Tensor>;

    /// Begins to add up what the ranks give, a vector of as many numbers each, f32. Sums end in the order in which they
    /// were begun, while the caller does something else.
    ///
    /// # Errors
    /// As [`Self::gather_rows`].
    fn begin_sum(&self, numbers: Tensor) -> Result<Box<dyn Sum>>;

    /// From now on, a rank counts as lost that has given no sign of life for so long.
    fn lost_after(&self, silence: Duration);

    /// Waits for all ranks and parts from them.
    ///
    /// # Errors
    /// A rank is lost.
    fn part(&self) -> Result<()>;
}

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

/// A sum on its way.
pub trait Sum {
    /// Whether [`Self::wait`] would not wait.
    fn is_ready(&mut self) -> bool;

    /// The sum, the same on every rank.
    ///
    /// # Errors
    /// A rank is lost.
    fn wait(self: Box<Self>) -> Result<Tensor>;
}

impl dyn Collective + '_ {
    /// Whether this is the rank that speaks and writes.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's part of `count` things in order. Parts differ by one at most; together they are all.
    pub fn share(&self, count: usize) -> Range<usize> {
        let start = |rank: usize| (count as u128 * rank as u128 / self.size() as u128) as usize;
        start(self.rank())..start(self.rank() + 1)
    }

    /// Whether any rank says so.
    ///
    /// # Errors
    /// As [`Collective::gather_bytes`].
    pub fn any(&self, says: bool) -> Result<bool> {
        Ok(self.gather_bytes(&[u8::from(says)])?.concat().contains(&1))
    }

    /// The numbers of all ranks, by rank, and where this rank's stand.
    ///
    /// # Errors
    /// As [`Collective::gather_bytes`].
    pub fn gather_numbers(&self, numbers: &[u32]) -> Result<(Vec<u32>, Range<usize>)> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let all = self.gather_bytes(&bytes)?;
        let start = all[..self.rank()].iter().map(|b| b.len() / 4).sum();
        let all = all.concat();
        let numbers_of_all = all.as_chunks::<4>().0.iter().map(|&four| u32::from_le_bytes(four)).collect();
        Ok((numbers_of_all, start..start + numbers.len()))
    }

    /// [`Collective::gather_rows`] of rows in several parts, of which a rank may have none; (…, width).
    ///
    /// # Errors
    /// As there.
    pub fn gather_parts(&self, own: &[Tensor], width: usize, device: &Device) -> Result<Tensor> {
        match own {
            [] => self.gather_rows(&Tensor::zeros((0, width), DType::F32, device)?),
            own => self.gather_rows(&Tensor::cat(own, 0)?),
        }
    }

    /// What `make` gives on the first rank; the others do not run it.
    ///
    /// # Errors
    /// As [`Collective::gather_bytes`]; those of `make`, on the first rank.
    pub fn from_first<T: Serialize + DeserializeOwned>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let own = if self.is_first() { Some(make()?) } else { None };
        let bytes = match &own {
            Some(value) if self.size() > 1 => serde_json::to_vec(value)?,
            _ => Vec::new(),
        };
        let told = self.gather_bytes(&bytes)?;
        match own {
            Some(value) => Ok(value),
            None => serde_json::from_slice(&told[0]).context("what the first rank told"),
        }
    }

    /// Runs `f` on the first rank of each host and then on the others, for what writes files that the rest will find.
    ///
    /// # Errors
    /// Those of `f`; a rank is lost.
    pub fn in_turn<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.local().0 == 0 {
            let made = f()?;
            self.gather_bytes(&[])?;
            return Ok(made);
        }
        self.gather_bytes(&[])?;
        f()
    }

    /// What every rank has worked out alike and that is to be added up over all: the first one's counts.
    ///
    /// # Errors
    /// Whatever the device reports.
    pub fn counted_once(&self, alike: Tensor) -> Result<Tensor> {
        if self.is_first() { Ok(alike) } else { Ok(alike.zeros_like()?) }
    }
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
