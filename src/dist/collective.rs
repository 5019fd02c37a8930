//! What ranks tell each other.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
