//! The order of training rows: a pure function of the seed and the position, so that resuming needs no state.

use rand::RngExt;

use crate::seed::{Purpose, stream};

/// Which rows each batch holds. Every epoch is a new permutation; rows that do not fill a last step wait for the next
/// epoch.
#[derive(Clone, Copy, Debug)]
pub struct Sampler {
    seed: u64,
    rows: usize,
    batch_size: usize,
    batches_per_step: usize,
}

impl Sampler {
    /// `rows` rows in steps of `batches_per_step` batches of `batch_size`. `rows` must fill one step.
    pub fn new(seed: u64, rows: usize, batch_size: usize, batches_per_step: usize) -> Self {
        assert!(rows >= batch_size * batches_per_step && batch_size * batches_per_step > 0, "rows must fill one step");
        Self { seed, rows, batch_size, batches_per_step }
    }

    /// Steps until every row that fits was seen once.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.rows / (self.batch_size * self.batches_per_step)) as u64
    }

    /// Rows of batch number `index`, counted from the start of training.
    pub fn batch(&self, index: u64) -> Vec<usize> {
        let batches_per_epoch = self.steps_per_epoch() * self.batches_per_step as u64;
        let (epoch, within) = (index / batches_per_epoch, (index % batches_per_epoch) as usize);
        let order = self.permutation(epoch);
        order[within * self.batch_size..(within + 1) * self.batch_size].to_vec()
    }

    /// Fisher and Yates. Drawn anew for each batch: a million rows take a few milliseconds on a worker thread.
    fn permutation(&self, epoch: u64) -> Vec<usize> {
        let mut rng = stream(self.seed, Purpose::Shuffle, epoch);
        let mut order: Vec<usize> = (0..self.rows).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.random_range(0..=i));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_each_row_once_and_epochs_differ() {
        let sampler = Sampler::new(3, 23, 2, 3);
        assert_eq!(sampler.steps_per_epoch(), 3);
        let epoch = |e: u64| (0..9).flat_map(|b| sampler.batch(e * 9 + b)).collect::<Vec<_>>();
        let mut first = epoch(0);
        assert_ne!(first, epoch(1));
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 18);
        assert_ne!(sampler.batch(0), Sampler::new(4, 23, 2, 3).batch(0));
    }
}
