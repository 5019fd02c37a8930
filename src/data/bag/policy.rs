//! Which images of a bag are read. Kept in the model, so that inference reads the same.

use anyhow::{Context, Result};
use rand::seq::index;
use serde_json::{Value, json};
use tracing::warn;

use crate::data::config::{BagConfig, DataConfig, OnBadImage, Pick};
use crate::data::volume::{VolumePolicy, evenly_spaced, told_once};
use crate::json;
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
    /// Whether the model was trained on volumes: where they are cut as is usual, nothing else tells.
    pub of_volumes: bool,
    /// Whether it was trained on single images; so it is taken of one whose folder says nothing of bags.
    pub of_images: bool,
}

impl Default for BagPolicy {
    /// 32 evenly spaced ones, all of which can be read, for a model of single images.
    fn default() -> Self {
        Self {
            max: 32,
            pick: Pick::Uniform,
            on_bad: OnBadImage::Row,
            volume: VolumePolicy::default(),
            of_volumes: false,
            of_images: true,
        }
    }
}

impl From<&DataConfig> for BagPolicy {
    fn from(config: &DataConfig) -> Self {
        let BagConfig { max, pick, on_bad, .. } = config.bag;
        Self { max, pick, on_bad, volume: config.volume_policy(), of_volumes: false, of_images: false }
    }
}

/// Where images are drawn at random: the seed, and the sample's number since the start of training.
pub type Draw = (u64, u64);

impl BagPolicy {
    /// Most images of a bag that may be asked for.
    pub const MOST: usize = 1 << 16;

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

    /// Says once what is done with volumes where the model knows none.
    pub(super) fn tell_of_volumes(&self) {
        if self.of_images {
            let max = self.max;
            told_once("volumes for images", || {
                warn!(
                    "as far as its folder says, the model was trained on single images, and volumes are read: of each \
                     at most {max} slices go through the image tower, and their pooled embedding stands for it"
                )
            });
        }
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
        let mut kept = json!({"max": self.max, "pick": pick, "on_bad": on_bad, "volume": self.volume.to_json()?});
        // What is not said is taken from how volumes are cut.
        if self.of_volumes || self.volume != VolumePolicy::default() {
            kept["of_volumes"] = self.of_volumes.into();
        }
        if self.of_images {
            kept["of_images"] = true.into();
        }
        Ok(kept)
    }

    /// From a model's folder, each key as configs take it.
    ///
    /// # Errors
    /// An unknown or missing key, or a value that the key does not have.
    pub fn from_json(kept: &Value) -> Result<Self> {
        let fields = json::fields(kept, &["max", "pick", "on_bad", "volume", "of_volumes", "of_images"])?;
        let needed = |key: &str| fields.get(key).with_context(|| format!("{key} is missing"));
        let volume = fields.get("volume").map(VolumePolicy::from_json).transpose().context("volume")?;
        let is = |key: &str, value| json::field(key, value, "true or false", Value::as_bool);
        let flag = |key: &str| fields.get(key).map(|value| is(key, value)).transpose();
        let volume = volume.unwrap_or_default();
        // Models of before this was kept were made for volumes where they cut them in another way than is usual.
        let of_volumes = flag("of_volumes")?.unwrap_or(volume != VolumePolicy::default());
        Ok(Self {
            max: json::count("max", needed("max")?, Self::MOST)?,
            pick: json::word("pick", needed("pick")?, Pick::WORDS, Pick::find)?,
            on_bad: json::word("on_bad", needed("on_bad")?, OnBadImage::WORDS, OnBadImage::find)?,
            // Models of before volumes were read do not say.
            volume,
            of_volumes,
            // Those that keep a policy and do not say may know bags.
            of_images: flag("of_images")?.unwrap_or(false),
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
        let (pick, on_bad) = (Pick::Stride, OnBadImage::Drop);
        let all = BagPolicy { max: 5, pick, on_bad, volume, of_volumes: true, of_images: false };
        assert_eq!(BagPolicy::from_json(&all.to_json().unwrap()).unwrap(), all);
        let of_loops = BagPolicy { of_volumes: false, ..all.clone() };
        assert_eq!(BagPolicy::from_json(&of_loops.to_json().unwrap()).unwrap(), of_loops);
        let of_images = BagPolicy { of_volumes: false, of_images: true, ..all.clone() };
        assert_eq!(BagPolicy::from_json(&of_images.to_json().unwrap()).unwrap(), of_images);
        let mut before = of_loops.to_json().unwrap();
        before.as_object_mut().unwrap().remove("of_volumes");
        assert_eq!(BagPolicy::from_json(&before).unwrap(), all, "as models were kept before");
        let with = |key: &str, value: Value| {
            let mut json = all.to_json().unwrap();
            json[key] = value;
            format!("{:#}", BagPolicy::from_json(&json).unwrap_err())
        };
        for (error, told) in [
            (format!("{:#}", BagPolicy::from_json(&json!({})).unwrap_err()), "max is missing"),
            (with("max", json!(0)), "max is 0; allowed is a whole number from 1 to 65536"),
            (with("max", json!(1 << 17)), "max is 131072; allowed is"),
            (with("pick", json!("best")), r#"pick is "best"; allowed is "uniform","#),
            (with("on_bad", json!(1)), "on_bad is 1; allowed is"),
            (with("of_volumes", json!(1)), "of_volumes is 1; allowed is true or false"),
            (with("of_images", json!(1)), "of_images is 1; allowed is true or false"),
            (with("volume", json!({"slices": 0})), "volume: slices is 0; allowed is"),
            (with("maximum", json!(1)), "maximum is no key; allowed are max,"),
        ] {
            assert!(error.starts_with(told), "{error}");
        }
    }
}
