//! Bags: the images of one report. Which of them are read, how they are read, and where they stand among the images of
//! a batch. Where every bag has one image, nothing of this is kept.

mod held;
mod kept;
mod left_out;
mod members;
mod policy;

pub use held::HeldImages;
pub use kept::{KeptFeatures, Slots};
pub(in crate::data) use members::volume_of;
pub use members::{Member, Members};
pub use policy::BagPolicy;

use crate::ops::Segments;

/// How the images of a batch fall to its bags.
#[derive(Clone, Debug, PartialEq)]
pub struct Bags {
    /// Bag i has these of the images, which lie one bag after the other.
    pub segments: Segments,
    /// Place of each image in its bag, 0 to 1.
    pub places: Vec<f32>,
}

impl Bags {
    /// Of the places of the images of each bag; `None` where each has one.
    pub fn of(bags: &[Vec<f32>]) -> Option<Self> {
        let several = bags.iter().any(|places| places.len() != 1);
        several.then(|| Self { segments: Segments::of_lengths(bags.iter().map(Vec::len)), places: bags.concat() })
    }

    /// Of so many bags of one image each.
    pub fn of_single(count: usize) -> Self {
        Self { segments: Segments::even(count, 1), places: vec![MIDDLE; count] }
    }
}

/// Where an only image stands.
const MIDDLE: f32 = 0.5;

/// Of files that hold `counts` images, which of those of `numbers`, ascending over all of them, each file has: the
/// number of its first image, and its own counted from there.
fn by_file(counts: impl Iterator<Item = usize>, numbers: &[usize]) -> impl Iterator<Item = (usize, Vec<usize>)> {
    let (mut end, mut rest) = (0, numbers);
    counts.map(move |count| {
        let start = end;
        end += count;
        let (own, later) = rest.split_at(rest.iter().take_while(|&&number| number < end).count());
        rest = later;
        (start, own.iter().map(|number| number - start).collect())
    })
}

/// Place of image `index` of `count`, 0 to 1.
fn place(index: usize, count: usize) -> f32 {
    if count > 1 { index as f32 / (count - 1) as f32 } else { MIDDLE }
}
