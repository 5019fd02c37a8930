//! What the frozen layers make of the images of training rows, where that is kept.

use anyhow::Result;

use super::policy::Draw;
use super::{BagPolicy, place};
use crate::data::FeatureCache;
use crate::data::config::{OnBadImage, Pick};
use crate::ops::Segments;

/// Where the images of each row are kept: those that training may read, one row after the other.
#[derive(Clone, Debug)]
pub struct Slots {
    /// Of each row how many images it has.
    counts: Vec<usize>,
    /// The slots of each row.
    segments: Segments,
    policy: BagPolicy,
}

impl Slots {
    /// For rows of these many images.
    pub fn new(counts: Vec<usize>, policy: &BagPolicy) -> Self {
        let segments = Segments::of_lengths(counts.iter().map(|&count| policy.readable(count).len()));
        Self { counts, segments, policy: policy.clone() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.segments.rows()
    }

    /// Whether each row has one image.
    pub fn are_of_single_images(&self) -> bool {
        self.counts.iter().all(|&count| count == 1)
    }

    /// Row and number within its bag of the image of each slot.
    pub fn images(&self) -> Vec<(usize, usize)> {
        let of_row = |(row, &count): (usize, &usize)| {
            self.policy.readable(count).into_iter().map(move |number| (row, number)).collect::<Vec<_>>()
        };
        self.counts.iter().enumerate().flat_map(of_row).collect()
    }

    /// Slot and place in its bag of each image of `row` that is read as this sample.
    fn picked(&self, row: usize, draw: Draw) -> Vec<(usize, f32)> {
        let (Some(&count), Some(&first)) = (self.counts.get(row), self.segments.firsts().get(row)) else {
            return Vec::new();
        };
        let picked = self.policy.picked(count, draw);
        // Where picks are drawn, every image has its slot; otherwise those that are picked have.
        let all = self.policy.pick == Pick::Random;
        let slot = |(k, number): (usize, usize)| (first + if all { number } else { k }, place(number, count));
        picked.into_iter().enumerate().map(slot).collect()
    }
}

impl BagPolicy {
    /// Which of `count` images training may read.
    fn readable(&self, count: usize) -> Vec<usize> {
        if self.pick == Pick::Random { (0..count).collect() } else { self.fixed(count) }
    }
}

/// A cache with the slots that it keeps.
#[derive(Debug)]
pub struct KeptFeatures {
    /// The numbers, a slot each.
    pub cache: FeatureCache,
    /// Whose slots they are.
    pub slots: Slots,
}

impl KeptFeatures {
    /// Appends the numbers of the images of `row` that are read as this sample to `numbers`, and gives the place of
    /// each in its bag; `None` where they are not there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, row: usize, draw: Draw, numbers: &mut Vec<f32>) -> Result<Option<Vec<f32>>> {
        let (before, mut places) = (numbers.len(), Vec::new());
        for (slot, place) in self.slots.picked(row, draw) {
            if self.cache.read(slot, numbers)? {
                places.push(place);
            } else if self.slots.policy.on_bad == OnBadImage::Row {
                numbers.truncate(before);
                return Ok(None);
            }
        }
        Ok((!places.is_empty()).then_some(places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_the_slot_that_it_is_read_from() {
        for pick in [Pick::Uniform, Pick::Random, Pick::First, Pick::Stride] {
            let policy = BagPolicy { max: 3, pick, ..BagPolicy::default() };
            let slots = Slots::new(vec![1, 7, 2, 5], &policy);
            let images = slots.images();
            assert_eq!(images.len(), slots.count());
            for (row, sample) in (0..4).flat_map(|row| (0..20).map(move |sample| (row, sample))) {
                let count = slots.counts[row];
                let expected: Vec<_> = policy.picked(count, (5, sample)).into_iter().map(|n| (row, n)).collect();
                let found = slots.picked(row, (5, sample));
                assert_eq!(found.iter().map(|(slot, _)| images[*slot]).collect::<Vec<_>>(), expected, "{pick:?}");
                assert!(found.iter().zip(&expected).all(|((_, at), (_, n))| *at == place(*n, count)), "{pick:?}");
            }
        }
        let random = BagPolicy { max: 3, pick: Pick::Random, ..BagPolicy::default() };
        assert_eq!(Slots::new(vec![1, 7], &random).count(), 8);
        assert_eq!(Slots::new(vec![1, 7], &BagPolicy { max: 3, ..BagPolicy::default() }).count(), 4);
    }
}
