//! Windows: which values of a volume become black and which white.
//!
//! Levels and widths of CT are Radiopaedia's (article "Windowing (CT)"): lung W 1500 L −600, mediastinum W 400 L 40,
//! bone W 1800 L 400, brain W 80 L 40.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::planes::Volume;
use crate::data::image::afford;

/// Windows by their names: Hounsfield units that become black and white.
const NAMED: [(&str, Range); 4] = [
    ("lung", Range { low: -1350.0, high: 150.0 }),
    ("mediastinum", Range { low: -160.0, high: 240.0 }),
    ("bone", Range { low: -500.0, high: 1300.0 }),
    ("brain", Range { low: 0.0, high: 80.0 }),
];

/// Of all voxels, where nobody says a window.
const PERCENTS: [f64; 2] = [0.5, 99.5];

/// Of what is shown in 8 bits already.
pub(super) const SHOWN: Range = Range { low: 0.0, high: 255.0 };

/// Values between black and white, after rescaling: Hounsfield units where the file is CT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// What is black, as is everything below.
    pub low: f64,
    /// What is white, as is everything above.
    pub high: f64,
}

/// Which values become black and white.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum Window {
    /// Percentiles of all of the volume's voxels, linear between ranks: for MR, whose units are arbitrary.
    Percentile([f64; 2]),
    /// One window, or three of them as three channels.
    Values(Vec<Range>),
    /// The own window of each DICOM slice or frame, as one alone is shown; of other volumes, which name none, as
    /// percentiles by default.
    File,
}

impl Default for Window {
    fn default() -> Self {
        Self::Percentile(PERCENTS)
    }
}

/// As config files and model folders have it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
enum Written {
    Word(String),
    Numbers([f64; 2]),
    Three([OneWritten; 3]),
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
enum OneWritten {
    Word(String),
    Numbers([f64; 2]),
}

impl Window {
    /// What may be written, in words.
    pub const ALLOWED: &'static str = "\"percentile\", \"file\", \"lung\", \"mediastinum\", \"bone\", \"brain\", \
                                       [low, high] with the lower first, or a list of three of them but the first two";

    /// Channels of a picture: 1 or 3.
    pub fn channels(&self) -> usize {
        match self {
            Self::Percentile(_) | Self::File => 1,
            Self::Values(ranges) => ranges.len(),
        }
    }
}

impl TryFrom<Written> for Window {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let one = |one: OneWritten| Range::try_from(one);
        Ok(match written {
            Written::Word(word) if word == "percentile" => Self::default(),
            Written::Word(word) if word == "file" => Self::File,
            Written::Word(word) => Self::Values(vec![one(OneWritten::Word(word))?]),
            Written::Numbers(numbers) => Self::Values(vec![one(OneWritten::Numbers(numbers))?]),
            Written::Three(three) => Self::Values(three.into_iter().map(one).collect::<Result<_, _>>()?),
        })
    }
}

impl TryFrom<OneWritten> for Range {
    type Error = String;

    fn try_from(written: OneWritten) -> Result<Self, String> {
        match written {
            OneWritten::Word(word) => NAMED
                .iter()
                .find(|(name, _)| *name == word)
                .map(|(_, range)| *range)
                .ok_or_else(|| format!("there is no window {word:?}; allowed is {}", Window::ALLOWED)),
            OneWritten::Numbers([low, high]) if low < high && (high - low).is_finite() => Ok(Self { low, high }),
            OneWritten::Numbers([low, high]) => {
                Err(format!("a window from {low} to {high} is none; the first number is the smaller one"))
            }
        }
    }
}

impl From<Window> for Written {
    fn from(window: Window) -> Self {
        let one = |range: &Range| [range.low, range.high];
        match window {
            // Other percentiles cannot be written.
            Window::Percentile(_) => Self::Word("percentile".into()),
            Window::File => Self::Word("file".into()),
            Window::Values(ranges) => match &ranges[..] {
                [a, b, c] => Self::Three([a, b, c].map(|range| OneWritten::Numbers(one(range)))),
                ranges => Self::Numbers(ranges.first().map_or([0.0, 1.0], one)),
            },
        }
    }
}

impl Range {
    /// Whether it is one that Hounsfield units have; values of other units are the user's own.
    pub(super) fn is_of_hounsfield(&self) -> bool {
        NAMED.iter().any(|(_, range)| range == self)
    }

    /// Values to bytes, as `numpy.rint(255 * numpy.clip((v - low) / (high - low), 0, 1))`.
    pub(super) fn bytes<'a>(&self, values: &'a [f32]) -> impl ExactSizeIterator<Item = u8> + 'a {
        /// A number of 24 bits whose last stands for 1: what is added to it is rounded to a whole number, the even one
        /// of two. Without SSE 4.1, which not all processors have, `round_ties_even` is a call.
        const WHOLE: f32 = 12_582_912.0;
        let low = self.low as f32;
        let scale = if self.high > self.low { (255.0 / (self.high - self.low)) as f32 } else { 0.0 };
        values.iter().map(move |v| (((v - low) * scale).clamp(0.0, 255.0) + WHOLE).to_bits() as u8)
    }
}

/// What a volume's voxels are shown between: the same whenever slices of it are read.
#[derive(Clone, Debug)]
pub(super) struct Ranges {
    window: Window,
    /// Of percentiles, once they are known.
    known: Arc<OnceLock<Range>>,
}

impl Ranges {
    pub fn new(window: &Window) -> Self {
        Self { window: window.clone(), known: Arc::default() }
    }

    /// Whether each DICOM slice has its own.
    pub fn are_of_files(&self) -> bool {
        self.window == Window::File
    }

    /// Of the volume that `open` opens. Percentiles are worked out once, as they take all voxels; a stream is read to
    /// its end for them.
    pub fn of(&self, open: impl FnOnce() -> Result<Volume>) -> Result<Vec<Range>> {
        let percents = match &self.window {
            Window::Values(ranges) => return Ok(ranges.clone()),
            Window::Percentile(percents) => *percents,
            Window::File => PERCENTS,
        };
        if let Some(range) = self.known.get() {
            return Ok(vec![*range]);
        }
        let range = of_percentiles(&mut open()?, percents)?;
        Ok(vec![*self.known.get_or_init(|| range)])
    }
}

/// The range between two percentiles of all voxels, as `numpy.percentile` has them.
fn of_percentiles(volume: &mut Volume, percents: [f64; 2]) -> Result<Range> {
    let shape = volume.geometry.shape;
    let count: usize = shape.iter().product();
    let mut voxels = Voxels::Counted(vec![0; 1 << 16]);
    let mut plane = Vec::new();
    for k in 0..shape[2] {
        volume.planes.read(k, &mut plane)?;
        voxels.add(&plane, count)?;
    }
    ensure!(count > 0, "has no voxels");
    let last = count - 1;
    let [low, high] = percents.map(|percent| {
        let place = percent / 100.0 * last as f64;
        let below = place.floor() as usize;
        let (value, next) = (voxels.ranked(below), voxels.ranked((below + 1).min(last)));
        value + place.fract() * (next - value)
    });
    Some(Range { low, high }).filter(|range| range.high >= range.low).context("its values cannot be put in order")
}

/// The voxels of a volume, to be ranked.
enum Voxels {
    /// How many have each of the whole numbers of 16 bits: all that CT and most MR hold.
    Counted(Vec<u64>),
    /// Other numbers.
    Listed(Vec<f32>),
}

impl Voxels {
    /// Adds some of `count`.
    fn add(&mut self, values: &[f32], count: usize) -> Result<()> {
        if let Self::Counted(counts) = self {
            if values.iter().all(|v| f32::from(*v as i16) == *v) {
                values.iter().for_each(|v| counts[Self::place(*v as i16)] += 1);
                return Ok(());
            }
            afford(4 * count as u64)?;
            let mut all = Vec::with_capacity(count);
            for (value, &times) in (i16::MIN..=i16::MAX).zip(counts.iter()) {
                all.resize(all.len() + times as usize, f32::from(value));
            }
            *self = Self::Listed(all);
        }
        if let Self::Listed(all) = self {
            all.extend_from_slice(values);
        }
        Ok(())
    }

    fn place(value: i16) -> usize {
        (i32::from(value) - i32::from(i16::MIN)) as usize
    }

    /// The voxel that stands at a place when all are in order, from 0.
    fn ranked(&mut self, rank: usize) -> f64 {
        match self {
            Self::Counted(counts) => {
                let mut seen = 0;
                let value = (i16::MIN..=i16::MAX).zip(counts.iter()).find(|(_, times)| {
                    seen += **times;
                    seen > rank as u64
                });
                value.map_or(0.0, |(value, _)| f64::from(value))
            }
            Self::Listed(all) => f64::from(*all.select_nth_unstable_by(rank, f32::total_cmp).1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_as_numpy_rounds_them() {
        let range = Range { low: -1.0, high: 254.0 };
        let values: Vec<f32> = (-2560..2560).map(|i| i as f32 / 8.0).chain([f32::MAX, f32::MIN, 0.49999997]).collect();
        let expected = values.iter().map(|v| (v + 1.0).clamp(0.0, 255.0).round_ties_even() as u8).collect::<Vec<_>>();
        assert_eq!(range.bytes(&values).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn voxels_that_are_counted_rank_as_those_that_are_listed() {
        let whole: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 4001 - 1024) as f32).collect();
        let ends = [-32768.0, 32767.0, -32768.0];
        let odd = [0.5, -40_000.0, 7.25, 40_000.0];
        for planes in [vec![&whole[..], &ends[..]], vec![&whole[..], &odd[..], &ends[..]], vec![&odd[..], &whole[..]]] {
            let mut sorted = planes.concat();
            sorted.sort_by(f32::total_cmp);
            let mut voxels = Voxels::Counted(vec![0; 1 << 16]);
            planes.iter().for_each(|plane| voxels.add(plane, sorted.len()).unwrap());
            for rank in [0, 1, 25, 2500, sorted.len() - 2, sorted.len() - 1] {
                assert_eq!(voxels.ranked(rank), f64::from(sorted[rank]), "{rank} of {planes:?}");
            }
            assert_eq!(matches!(voxels, Voxels::Counted(_)), !planes.contains(&&odd[..]));
        }
    }
}
