//! Random streams. Every random decision is a pure function of (seed, purpose, index), so that a resumed run needs no
//! saved generator state: knowing the step is enough.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is for. Adding one never changes the others.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Initial weights; index = hash of the parameter's name.
    Init = 1,
    /// Order of rows; index = epoch.
    Shuffle = 2,
    /// Augmentation; index = sample position since the start of training.
    Augment = 3,
    /// Bootstrap resamples; index = resample.
    Bootstrap = 4,
    /// What of a report is read; index = sample position since the start of training.
    Text = 5,
    /// Which rows an epoch draws; index = epoch.
    Draw = 6,
    /// Which patients go to which split; index = number of the stratum.
    Split = 7,
    /// Random search; index = number of the combination.
    Search = 8,
    /// What training drops; index = hash of step, chunk and layer.
    Dropout = 9,
    /// Order in which pairs are matched for calibration; index = number of the order.
    Matching = 10,
    /// Outcomes that probabilities give; index = draw.
    Outcomes = 11,
    /// Which images are shots; index = number of the seed.
    Shots = 12,
    /// Which patients are in which half where each is judged by the other.
    Halves = 13,
    /// Orders that say nothing, which others are held against; index = number of the order.
    RandomOrder = 14,
    /// Which images of a bag are read; index = sample position since the start of training.
    Bag = 15,
    /// Which report brings a text that says its opposite, and which; index = sample position since the start of
    /// training.
    Opposite = 16,
    /// Which other patient's image stands in for an image, where it is asked what a model says without looking.
    OtherPatients = 17,
}

/// The stream of `purpose` number `index` under `seed`.
pub fn stream(seed: u64, purpose: Purpose, index: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    key[16..24].copy_from_slice(&index.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// A stable 64-bit number for a name (FNV-1a): the same on every machine and version.
pub fn name_index(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
