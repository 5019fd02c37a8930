//! Which images of a bag are read. Kept in the model, so that inference reads the same.

use anyhow::{Context, Result, ensure};
use rand::seq::index;
use serde_json::{Value, json};

use crate::data::config::{BagConfig, DataConfig, OnBadImage, Pick};
use crate::data::volume::{VolumePolicy, evenly_spaced};
use crate::seed::{Purpose, stream};

/// Which images of a bag are read, and what becomes of one that cannot be.
#[derive(Clone, Debug, PartialEq)]
pub struct BagPolicy {
    /// At most so many.
    pub max: usize,
    /// Which of more.
    pub pick: Pick,
    /// One that cannot be read.
    pub on_bad: OnBadImage,
    /// How volumes become images.
    pub volume: VolumePolicy,
}

impl Default for BagPolicy {
    /// 32 evenly spaced ones, all of which can be read.
    fn default() -> Self {
        Self { max: 32, pick: Pick::Uniform, on_bad: OnBadImage::Row, volume: VolumePolicy::default() }
    }
}

impl From<&DataConfig> for BagPolicy {
    fn from(config: &DataConfig) -> Self {
        let BagConfig { max, pick, on_bad, .. } = config.bag;
        Self { max, pick, on_bad, volume: config.volume_policy() }
    }
}

/// Where images are drawn at random: the seed, and the sample's number since the start of training.
pub type Draw = (u64, u64);

impl BagPolicy {
    /// Which of `count` images are read, in order.
    pub fn picked(&self, count: usize, (seed, sample): Draw) -> Vec<usize> {
        if count <= self.max || self.pick != Pick::Random {
            return self.fixed(count);
        }
        let mut rng = stream(seed, Purpose::Bag, sample);
        let mut drawn = index::sample(&mut rng, count, self.max).into_vec();
        drawn.sort_unstable();
        drawn
    }

    /// Which of `count` images evaluation reads, in order: the same each time.
    pub fn fixed(&self, count: usize) -> Vec<usize> {
        if count <= self.max {
            return (0..count).collect();
        }
        match self.pick {
            Pick::Uniform | Pick::Random => (0..self.max).map(|k| evenly_spaced(k, self.max, count)).collect(),
            Pick::First => (0..self.max).collect(),
            Pick::Stride => (0..count).step_by(count.div_ceil(self.max)).collect(),
        }
    }

    /// What to say where volumes are cut into more slices than are ever read.
    pub fn unread_slices(&self) -> Option<String> {
        let (max, slices) = (self.max, self.volume.slices?);
        (slices > max && self.pick != Pick::Random).then(|| {
            format!(
                "data.bag.max is {max} and data.volume.slices {slices}: of a volume's {slices} slices {max} are read, \
                 the same each time; raise data.bag.max, or lower data.volume.slices"
            )
        })
    }

    /// What to say of volumes of so many slices, where nobody said how many there are and some are never read.
    pub(super) fn unread_of(&self, mut volumes: impl Iterator<Item = usize>) -> Option<String> {
        let (max, is_told) = (self.max, self.volume.slices.is_some() || self.pick == Pick::Random);
        let slices = volumes.find(|slices| *slices > max && !is_told)?;
        Some(format!(
            "a volume has {slices} slices, of which {max} are read, the same each time, and so it is with others of \
             more than {max}; see data.bag.max, data.bag.pick and data.volume.slices"
        ))
    }

    /// The same for evaluation, which takes evenly spaced images whatever training takes.
    #[must_use]
    pub fn evenly(&self) -> Self {
        Self { pick: Pick::Uniform, ..self.clone() }
    }

    /// As a model's folder keeps it.
    ///
    /// # Errors
    /// A number is none that JSON has.
    pub fn to_json(&self) -> Result<Value> {
        let (pick, on_bad) = (self.pick.word(), self.on_bad.word());
        Ok(json!({"max": self.max, "pick": pick, "on_bad": on_bad, "volume": self.volume.to_json()?}))
    }

    /// From a model's folder.
    ///
    /// # Errors
    /// A word that is not known, a number that cannot be.
    pub fn from_json(json: &Value) -> Result<Self> {
        let word = |key: &str| json[key].as_str().with_context(|| format!("{key} is missing, or is no text"));
        let unknown = |key: &str, word: &str, known: &[&str]| {
            format!("{key} is {word:?}; this version knows {}", known.join(", "))
        };
        let max = json["max"].as_u64().context("max is missing, or is no whole number")? as usize;
        ensure!(max > 0, "max is 0; allowed is 1 or more");
        let (pick, on_bad) = (word("pick")?, word("on_bad")?);
        // Models of before volumes were read do not say.
        let volume = json.get("volume").map(VolumePolicy::from_json).transpose()?.unwrap_or_default();
        Ok(Self {
            max,
            volume,
            pick: Pick::find(pick).with_context(|| unknown("pick", pick, Pick::WORDS))?,
            on_bad: OnBadImage::find(on_bad).with_context(|| unknown("on_bad", on_bad, OnBadImage::WORDS))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(pick: Pick, max: usize, count: usize, sample: u64) -> Vec<usize> {
        BagPolicy { max, pick, ..BagPolicy::default() }.picked(count, (7, sample))
    }

    #[test]
    fn picks_are_in_order_within_the_bag_and_no_more_than_asked() {
        for pick in [Pick::Uniform, Pick::Random, Pick::First, Pick::Stride] {
            for (max, count) in (1..9).flat_map(|max| (1..40).map(move |count| (max, count))) {
                let found = picked(pick, max, count, 3);
                let ordered = found.windows(2).all(|pair| pair[0] < pair[1]);
                assert!(ordered && !found.is_empty() && found.len() <= max, "{pick:?} {max} of {count}: {found:?}");
                assert!(found.iter().all(|&i| i < count), "{pick:?} {max} of {count}: {found:?}");
                if count <= max {
                    assert_eq!(found.len(), count, "{pick:?}: all of a small bag");
                } else if pick != Pick::Stride {
                    assert_eq!(found.len(), max, "{pick:?} {max} of {count}");
                }
            }
        }
        assert_eq!(picked(Pick::Uniform, 4, 8, 0), [1, 3, 5, 7]);
        assert_eq!(picked(Pick::Uniform, 3, 9, 0), [1, 4, 7]);
        assert_eq!(picked(Pick::Stride, 4, 9, 0), [0, 3, 6]);
        assert_eq!(picked(Pick::First, 3, 9, 0), [0, 1, 2]);
    }

    #[test]
    fn only_random_picks_change_from_sample_to_sample() {
        let of_samples = |pick| (0..20).map(|sample| picked(pick, 3, 30, sample)).collect::<Vec<_>>();
        let distinct = |pick| of_samples(pick).into_iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(distinct(Pick::Random) > 15);
        assert_eq!(of_samples(Pick::Random), of_samples(Pick::Random), "the same again for the same sample");
        assert_eq!((distinct(Pick::Uniform), distinct(Pick::First), distinct(Pick::Stride)), (1, 1, 1));
        let random = BagPolicy { max: 3, pick: Pick::Random, ..BagPolicy::default() };
        assert_eq!(random.evenly().picked(30, (7, 1)), picked(Pick::Uniform, 3, 30, 2));
    }

    #[test]
    fn slices_that_are_never_read_are_told() {
        let of = |max, slices, pick| {
            let volume = VolumePolicy { slices, ..VolumePolicy::default() };
            BagPolicy { max, pick, volume, ..BagPolicy::default() }.unread_slices()
        };
        assert!(of(32, Some(64), Pick::Uniform).unwrap().contains("of a volume's 64 slices 32 are read"));
        // Others each time.
        assert_eq!(of(32, Some(64), Pick::Random), None);
        assert_eq!([of(64, Some(64), Pick::First), of(32, None, Pick::Uniform)], [None, None]);
        let policy = BagPolicy::default();
        assert!(policy.unread_of([3, 300].into_iter()).unwrap().contains("300 slices, of which 32 are read"));
        assert_eq!(policy.unread_of([3, 32].into_iter()), None);
        let random = BagPolicy { pick: Pick::Random, ..policy };
        assert_eq!(random.unread_of([300].into_iter()), None);
    }

    #[test]
    fn json_keeps_all() {
        let volume = VolumePolicy { slices: Some(9), ..VolumePolicy::default() };
        let all = BagPolicy { max: 5, pick: Pick::Stride, on_bad: OnBadImage::Drop, volume };
        assert_eq!(BagPolicy::from_json(&all.to_json().unwrap()).unwrap(), all);
        for broken in
            [json!({}), json!({"max": 0, "pick": "first", "on_bad": "row"}), json!({"max": 3, "pick": "best"})]
        {
            assert!(BagPolicy::from_json(&broken).is_err(), "{broken}");
        }
    }
}
