//! Where image layers are frozen, what they make of each training image is worked out once, before the first step.

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

use super::kept_features;
use super::stop::{self, Cause, Stopped};
use super::trainer::Trainer;
use crate::config::Config;
use crate::data::image::frame_of;
use crate::data::{Dataset, FeatureCache, KeptFeatures, Members, Numbers, Prefetch, Prepared, Row, Slots};
use crate::model::freeze::FreezeDepth;
use crate::model::{Builder, ClipModel, Param, Params, Part, VisionConfig};
use crate::session::image_features_change;
use crate::track::{Event, Note};

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
        let frozen = self.frozen.image();
        let (kept, reason) = choose(self.config, &*self.folder.config.vision, self.epochs());
        if !kept {
            if frozen != FreezeDepth::None {
                let text = format!("image features are worked out at each step: {reason}");
                self.emit(&Event::Note(Note::choice(text)))?;
            }
            return Ok(None);
        }
        let precision = self.config.data.feature_precision;
        let layers = format!("{:?} {frozen:?}", self.folder.config.vision);
        let mut layers = kept_features::worked_out(layers, self.products, precision);
        let (slots, by_policy) = slots(&self.train);
        if by_policy {
            layers.push_str(&format!(" {:?}", self.train.bags));
        }
        let key = key(&layers, &self.state.params, &self.train, &self.train_images)?;
        let path = self.feature_file(&format!("{}.{}", &key[..16], precision.word()))?;
        let width = self.folder.config.vision.frozen_numbers(frozen).context("this tower's features cannot be kept")?;
        let (count, numbers) = (slots.count(), Numbers { width, precision });
        let open = || FeatureCache::open(&path, &key, count, numbers).context("data.feature_cache");
        let (writer, missing) = kept_features::to_fill(&*self.world, open)?;
        let size = (count * numbers.bytes()) >> 20;
        self.emit(&Event::Note(Note::choice(format!(
            "image features are kept in {} ({size} MiB, {} of {} {} to work out): {reason}",
            path.display(),
            missing.len(),
            count,
            if count == self.train.rows.len() { "rows" } else { "images" }
        ))))?;
        if let Some(reason) = self.fill(writer.as_ref(), width, (missing, slots.images()))? {
            return Ok(Some(reason));
        }
        let cache = match writer {
            Some(cache) => cache,
            None => open()?,
        };
        let dataset = Dataset { features: Some(Arc::new(KeptFeatures { cache, slots })), ..(*self.train).clone() };
        self.train = Arc::new(dataset);
        Ok(None)
    }

    /// Each rank works out its share of each round; all that write get all. Rows whose image cannot be read stay
    /// missing: the step that needs one tells of it.
    fn fill(
        &mut self,
        cache: Option<&FeatureCache>,
        width: usize,
        (missing, images): (Vec<u32>, Vec<(usize, usize)>),
    ) -> Result<Option<Stopped>> {
        let weights = Builder::eval(&self.state.params).products(self.products);
        let model = ClipModel::new(&self.folder.config, &weights)?;
        let size = self.folder.config.vision.image_size();
        let round = self.config.eval.batch_size * self.world.size();
        let of_round = |rows: &[u32]| rows[self.world.share(rows.len())].to_vec();
        let rounds = rounds(&missing, &images, round);
        let lengths: Vec<usize> = rounds.iter().map(|slots| slots.len()).collect();
        let own: Vec<Vec<u32>> = rounds.into_iter().map(of_round).collect();
        let dataset = Arc::clone(&self.train);
        let decode = move |i: u64| -> Option<Vec<(u32, Prepared)>> {
            // Images of one row together: those of a volume are read at once.
            let rows = own.get(i as usize)?.chunk_by(|&a, &b| images[a as usize].0 == images[b as usize].0);
            Some(rows.flat_map(|slots| read(&dataset, slots, &images)).collect())
        };
        let data = &self.config.data;
        let mut done = 0;
        for (images, length) in Prefetch::start(0, data.workers, data.prefetch, decode)?.zip(lengths) {
            if self.world.any(stop::asked())? {
                let text = "stopped while image features were worked out; go on with --resume latest".into();
                return Ok(Some(Stopped { cause: Cause::Signal, text }));
            }
            done += length;
            let rows: Vec<u32> = images.iter().map(|(row, _)| *row).collect();
            let features = match images.as_slice() {
                [] => Tensor::zeros((0, width), DType::F32, &self.device)?,
                images => {
                    let mut numbers = vec![0.0; images.iter().map(|(_, image)| image.len()).sum()];
                    let each = numbers.len() / images.len();
                    numbers.chunks_exact_mut(each).zip(images).for_each(|(numbers, (_, image))| image.write(numbers));
                    let pixel_values = Tensor::from_vec(numbers, (images.len(), 3, size, size), &self.device)?;
                    let features = model.frozen_image_features(&pixel_values, self.frozen.image())?;
                    features.reshape((images.len(), width))?
                }
            };
            let (rows, _) = self.world.gather_numbers(&rows)?;
            let features: Vec<f32> = self.world.gather_rows(&features)?.flatten_all()?.to_vec1()?;
            if let Some(cache) = cache.filter(|_| !rows.is_empty()) {
                cache.write(rows.iter().map(|&row| row as usize).zip(features.chunks_exact(width)))?;
            }
            self.emit(&Event::Preparing { what: "image features", done, total: missing.len() })?;
        }
        // Whoever does not write waits until all is written.
        self.world.gather_bytes(&[])?;
        Ok(None)
    }
}

/// `slots`, in order, in rounds of at most `most`: those of a row in one, where that has room for them, so that its
/// volumes are opened once. `images`: row and number of each slot's.
fn rounds<'a>(slots: &'a [u32], images: &[(usize, usize)], most: usize) -> Vec<&'a [u32]> {
    let (mut rounds, mut start, mut end) = (Vec::new(), 0, 0);
    for row in slots.chunk_by(|&a, &b| images[a as usize].0 == images[b as usize].0) {
        if end > start && end + row.len() - start > most {
            rounds.push(&slots[start..end]);
            start = end;
        }
        end += row.len();
        while end - start > most {
            rounds.push(&slots[start..start + most]);
            start += most;
        }
    }
    rounds.extend((end > start).then(|| &slots[start..end]));
    rounds
}

/// The images of these slots, all of one row, as far as they can be read. `images`: row and number of each slot's.
fn read(dataset: &Dataset, slots: &[u32], images: &[(usize, usize)]) -> Vec<(u32, Prepared)> {
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
