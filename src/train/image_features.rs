//! Where image layers are frozen, what they make of each training image is worked out once, before the first step.

use std::sync::Arc;

use anyhow::{Context, Result};
use rayon::prelude::*;

use super::fill::{Encoded, ToKeep};
use super::kept_features;
use super::stop::Stopped;
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::image::frame_of;
use crate::data::{Dataset, Images, KeptFeatures, Members, Prefetch, Prepared, Row, Slots};
use crate::groups;
use crate::model::freeze::FreezeDepth;
use crate::model::{ClipModel, Param, Params, Part, VisionConfig};
use crate::session::image_features_change;

/// Whether features are kept, and why.
pub(super) fn choose(config: &Config, vision: &dyn VisionConfig, epochs: f64) -> (bool, &'static str) {
    if config.freeze.image == FreezeDepth::None {
        (false, "no image layer is frozen")
    } else if !config.data.cache_features {
        (false, "data.cache_features is false")
    } else if config.loss.uses_places() {
        (false, "the objective looks at patches, which are not kept")
    } else if let Some(reason) = image_features_change(config) {
        (false, reason)
    } else if vision.frozen_numbers(config.freeze.image).is_none() {
        (false, "of this kind of tower only the output of the whole can be kept")
    } else if epochs <= 1.0 {
        (false, "no image is seen twice")
    } else {
        (true, "the frozen image layers give the same at each epoch")
    }
}

impl Trainer<'_> {
    /// Fills the cache of features and makes the data set read it. Returns why training shall not begin, if it shall
    /// not.
    pub(super) fn keep_image_features(&mut self) -> Result<Option<Stopped>> {
        let (what, frozen) = ("image features", self.frozen.image());
        let (kept, reason) = choose(self.config, &*self.folder.config.vision, self.epochs());
        if !kept {
            if frozen != FreezeDepth::None {
                self.tell_of_each_step(what, reason)?;
            }
            return Ok(None);
        }
        let layers = format!("{:?} {frozen:?}", self.folder.config.vision);
        let mut layers = kept_features::worked_out(layers, self.products, self.config.data.feature_precision);
        let (slots, by_policy) = slots(&self.train);
        if by_policy {
            layers.push_str(&format!(" {:?}", self.train.bags));
        }
        let features = ToKeep {
            what,
            prefix: "",
            key: key(&layers, &self.state.params, &self.train, &self.train_images)?,
            count: slots.count(),
            of: if slots.count() == self.train.rows.len() { "rows" } else { "images" },
            width: self.folder.config.vision.frozen_numbers(frozen).context("this tower's features cannot be kept")?,
            reason,
        };
        let rounds = |this: &Self, missing: Vec<u32>| this.read_ahead(&missing, slots.images());
        let cache = match self.kept_file(&features, rounds, Self::encode_images)? {
            Ok(cache) => cache,
            Err(stopped) => return Ok(Some(stopped)),
        };
        Arc::make_mut(&mut self.train).features = Some(Arc::new(KeptFeatures { cache, slots }));
        Ok(None)
    }

    /// Of each round of slots how many it has, and this rank's images, read ahead. Rows whose image cannot be read stay
    /// missing: the step that needs one tells of it. `images`: row and number of each slot's.
    fn read_ahead(&self, slots: &[u32], images: Vec<(usize, usize)>) -> Result<Prefetch<(usize, Vec<Read>)>> {
        let rounds = rounds(slots, &images, self.config.eval.batch_size * self.world.size());
        let own = |round: Vec<u32>| (round.len(), round[self.world.share(round.len())].to_vec());
        let rounds: Vec<(usize, Vec<u32>)> = rounds.into_iter().map(own).collect();
        let dataset = Arc::clone(&self.train);
        let make = move |i: u64| -> Option<(usize, Vec<Read>)> {
            let (count, own) = rounds.get(i as usize)?;
            // Images of one row together: those of a volume are read at once.
            let rows = own.chunk_by(|&a, &b| images[a as usize].0 == images[b as usize].0);
            Some((*count, rows.flat_map(|slots| read(&dataset, slots, &images)).collect()))
        };
        Prefetch::start(0, self.config.data.workers, self.config.data.prefetch, make)
    }

    /// What the frozen layers make of images.
    fn encode_images(&self, model: &ClipModel, images: Vec<Read>) -> Result<Encoded> {
        let (slots, images): (Vec<u32>, Vec<Prepared>) = images.into_iter().unzip();
        if images.is_empty() {
            return Ok((slots, None));
        }
        let (count, size) = (images.len(), self.folder.config.vision.image_size());
        let pixel_values = Images::Prepared(images).to_tensor((count, 3, size, size), &self.device)?;
        let features = model.frozen_image_features(&pixel_values, self.frozen.image())?;
        Ok((slots, Some(features.reshape((count, ()))?)))
    }
}

/// A slot's image.
type Read = (u32, Prepared);

/// `slots`, in order, in rounds of at most `most`: those of a row in one, where that has room for them, so that its
/// volumes are opened once. `images`: row and number of each slot's.
fn rounds(slots: &[u32], images: &[(usize, usize)], most: usize) -> Vec<Vec<u32>> {
    let rows = slots.chunk_by(|&a, &b| images[a as usize].0 == images[b as usize].0);
    let parts: Vec<&[u32]> = rows.flat_map(|row| row.chunks(most)).collect();
    let rounds = groups::within(parts.iter().map(|part| [part.len()]), [most]);
    rounds.into_iter().map(|round| parts[round].concat()).collect()
}

/// The images of these slots, all of one row, as far as they can be read. `images`: row and number of each slot's.
fn read(dataset: &Dataset, slots: &[u32], images: &[(usize, usize)]) -> Vec<Read> {
    let Some((row, _)) = slots.first().map(|&slot| images[slot as usize]) else { return Vec::new() };
    let Ok(members) = Members::of(dataset.rows[row].image(), &dataset.bags) else { return Vec::new() };
    let numbers: Vec<usize> = slots.iter().map(|&slot| images[slot as usize].1).collect();
    let (mut read, mut next) = (Vec::new(), slots.iter());
    members.each(&numbers, &mut |number, picture| {
        let prepared = picture.and_then(|picture| dataset.preprocess.prepare(&picture, None));
        // Of a volume that cannot be read, the first slice alone is told of.
        let slot = next.find(|&&slot| images[slot as usize].1 == number).copied();
        read.extend(slot.zip(prepared.ok()));
        true
    });
    read
}

/// A slot for each image that training may read, and whether a row is a bag or a volume, so that the policy decides
/// what lies in its slots. A row that does not say how many it has is told of by its step.
fn slots(dataset: &Dataset) -> (Slots, bool) {
    let count = |row: &Row| {
        let members = Members::of(row.image(), &dataset.bags);
        members.map_or((1, true), |members| (members.count(), !members.is_one_image()))
    };
    let (counts, by_policy): (Vec<usize>, Vec<bool>) = dataset.rows.par_iter().map(count).unzip();
    (Slots::new(counts, &dataset.bags), by_policy.contains(&true))
}

/// Over all that the features depend on: the frozen layers' shape, type of products and weights, preprocessing, and
/// what the images of the training rows hold.
fn key(layers: &str, params: &Params, dataset: &Dataset, images: &str) -> Result<String> {
    let below = |p: &&Param| p.spec.part == Part::Image && !p.trainable;
    let mut print = kept_features::key(layers, params.iter().filter(below))?;
    print.field(dataset.preprocess.to_json().to_string());
    print.field(images);
    // That is of whole files: which of the frames or time points of one is read, names tell.
    for (number, row) in dataset.rows.iter().enumerate().filter(|(_, row)| row.image_name().contains('#')) {
        for image in row.image().images() {
            print.field(format!("{number} {}", frame_of(image.file()).1));
        }
    }
    Ok(print.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_cut_between_rows_where_these_are_not_too_long() {
        let lengths = [1usize, 3, 2, 2, 9, 1, 1, 4];
        let images: Vec<(usize, usize)> = lengths
            .iter()
            .enumerate()
            .flat_map(|(row, &length)| (0..length).map(move |number| (row, number)))
            .collect();
        let slots: Vec<u32> = (0..images.len() as u32).collect();
        let of = |slots: &[u32], most| rounds(slots, &images, most).iter().map(|round| round.len()).collect::<Vec<_>>();
        assert_eq!(of(&slots, 4), [4, 4, 4, 4, 3, 4]);
        assert_eq!(of(&slots, 5), [4, 4, 5, 5, 5]);
        assert_eq!(rounds(&slots, &images, 4).concat(), slots);
        // Of single images, as many as fit.
        let single: Vec<(usize, usize)> = (0..10).map(|row| (row, 0)).collect();
        let cut: Vec<usize> = rounds(&slots[..10], &single, 4).iter().map(|round| round.len()).collect();
        assert_eq!(cut, [4, 4, 2]);
        assert!(rounds(&[], &single, 4).is_empty());
    }
}
