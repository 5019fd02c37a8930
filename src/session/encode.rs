//! A data set through the towers, without gradients.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::again::Found;
use super::frozen::Frozen;
use crate::data::{BagPolicy, Bags, ImageSource, Members, Prefetch, Preprocess, ReportTokenizer};
use crate::digest::ContentHash;
use crate::dist::Collective;
use crate::error::one_line;
use crate::groups;
use crate::model::ClipModel;
use crate::model::freeze::FreezeDepth;
use crate::ops::reference::l2_normalize;
use crate::ops::{Value, squared_sum};

/// L2-normalised rows, on the CPU.
pub type Embeddings = Tensor;

/// A model with all that turns files and texts into its input.
pub struct Encoder<'a> {
    /// The ranks that share the work.
    pub world: &'a dyn Collective,
    /// The towers.
    pub model: ClipModel,
    /// Steps from pixels to input.
    pub preprocess: &'a Preprocess,
    /// Steps from text to token ids.
    pub tokenizer: &'a ReportTokenizer,
    /// Which images of a bag are read.
    pub bags: BagPolicy,
    /// Where the model is.
    pub device: &'a Device,
    /// Items at once.
    pub batch_size: usize,
    /// Threads that decode images.
    pub workers: usize,
    /// What is frozen while the same lists are encoded again and again: what these layers make of them is then worked
    /// out once, and kept in memory unless a list takes more than 256 MiB of it. Files are not looked at anew.
    pub frozen: Option<&'a Frozen>,
}

impl Encoder<'_> {
    /// Embeddings of images, or of bags of them, (sources, embed_dim), rows in the given order. Each rank encodes its
    /// share of the batches; all get all.
    ///
    /// # Errors
    /// [`UnreadableImage`], of whichever rank met one; features that are not finite.
    pub fn images(&self, images: &[ImageSource]) -> Result<Embeddings> {
        let rows = self.own_images(images);
        let bad = rows.as_ref().err().and_then(|e| e.downcast_ref::<UnreadableImage>());
        let message = match bad {
            Some(bad) => {
                let number = images.iter().position(|image| *image == bad.image).context("an image of none")?;
                [&(number as u64).to_le_bytes(), bad.reason.as_bytes()].concat()
            }
            None => Vec::new(),
        };
        if let Some(bad) = self.world.gather_bytes(&message)?.iter().find(|message| !message.is_empty()) {
            let (number, reason) = bad.split_first_chunk::<8>().context("an image of none")?;
            let image = images.get(u64::from_le_bytes(*number) as usize).context("an image of none")?.clone();
            return Err(UnreadableImage { image, reason: String::from_utf8_lossy(reason).into_owned() }.into());
        }
        let rows = self.gather(&rows?)?;
        ensure!(rows.dim(0)? == images.len(), "a data worker ended unexpectedly");
        finite(rows, "image features")
    }

    fn own_images(&self, images: &[ImageSource]) -> Result<Vec<Tensor>> {
        let mut rows = Vec::new();
        let mut embed = |features: Tensor, places: &[Vec<f32>]| -> Result<()> {
            let embeds = match Bags::of(places) {
                None => l2_normalize(&features)?,
                Some(bags) => self.model.bag_embeds(&features, &bags.segments, &bags.places)?,
            };
            rows.push(embeds.to_device(&Device::Cpu)?);
            Ok(())
        };
        let Some(frozen) = self.frozen.filter(|frozen| frozen.image() != FreezeDepth::None) else {
            self.each_batch(images, |pixel_values, places| embed(self.features_of_all(pixel_values)?, places))?;
            return Ok(rows);
        };
        let above = |x: &Tensor, places: &[Vec<f32>]| {
            let each = x.dim(0)? / places.iter().map(Vec::len).sum::<usize>();
            self.in_parts(x, each, |x| Ok(self.model.image_features_above(x.clone(), frozen.image())?.tensor().clone()))
        };
        let before = frozen.images.get(|list| list == images);
        if let Some(Some(kept)) = &before {
            kept.iter().try_for_each(|(x, places)| embed(above(x, places)?, places))?;
            return Ok(rows);
        }
        let mut found = Found::of(self.world.share(images.len()).len());
        self.each_batch(images, |pixel_values, places| {
            let below = |x: &Tensor| Ok(self.model.frozen_image_features(x, frozen.image())?);
            let x = self.in_parts(pixel_values, 1, below)?;
            embed(above(&x, places)?, places)?;
            if before.is_none() {
                let bytes = bytes_of(&x);
                found.add((x, places.to_vec()), places.len(), bytes);
            }
            Ok(())
        })?;
        if before.is_none() {
            frozen.images.put(images.to_vec(), found);
        }
        Ok(rows)
    }

    /// Lets `see` have the pixel_values of this rank's batches in order, (images, 3, height, width), with the places of
    /// each source's images.
    pub(super) fn each_batch(
        &self,
        images: &[ImageSource],
        mut see: impl FnMut(&Tensor, &[Vec<f32>]) -> Result<()>,
    ) -> Result<()> {
        let size = self.preprocess.output_size();
        let (height, width) = size.context("the preprocessing gives images of various sizes")?;
        let (preprocess, policy) = (self.preprocess.clone(), self.bags.clone());
        // Files that may hold frames are looked into.
        let costs: Vec<_> = images.par_iter().map(|source| [Members::most(source, &policy)]).collect();
        let batches = self.own(groups::within(costs, [self.batch_size]));
        let batches: Vec<Vec<ImageSource>> = batches.map(|batch| images[batch].to_vec()).collect();
        let make = move |i: u64| batches.get(i as usize).map(|images| decoded(&preprocess, &policy, images));
        for batch in Prefetch::start(0, self.workers, 2 * self.workers, make)? {
            let Decoded { values, places } = batch?;
            let count: usize = places.iter().map(Vec::len).sum();
            let pixel_values = Tensor::from_vec(values, (count, 3, height as usize, width as usize), self.device)?;
            see(&pixel_values, &places)?;
        }
        Ok(())
    }

    /// image_features of the images of bags, as many at once as of other images; (images, embed_dim).
    ///
    /// # Errors
    /// Images of another size than the model's.
    pub fn features_of_all(&self, pixel_values: &Tensor) -> Result<Tensor> {
        self.in_parts(pixel_values, 1, |x| Ok(self.model.image_features(x)?.tensor().clone()))
    }

    /// What `make` gives for parts of `x` of at most `batch_size` images, of which each has so many rows.
    fn in_parts(&self, x: &Tensor, each: usize, make: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let (count, most) = (x.dim(0)?, self.batch_size * each);
        let part = |start: usize| make(&x.narrow(0, start, most.min(count - start))?);
        let parts = (0..count).step_by(most).map(part).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Embeddings of texts, (texts, embed_dim), rows in the given order, as [`Self::images`] does it.
    ///
    /// # Errors
    /// Whatever tokenizer or model report; features that are not finite.
    pub fn texts(&self, texts: &[&str]) -> Result<Embeddings> {
        let mut rows = Vec::new();
        let mut embed = |states: &Tensor| -> Result<()> {
            let features = self.model.project_text(&states.clone().into())?;
            rows.push(l2_normalize(features.tensor())?.to_device(&Device::Cpu)?);
            Ok(())
        };
        let again = self.frozen.filter(|frozen| frozen.text_stays()).map(|frozen| (&frozen.texts, digest(texts)));
        let before = again.as_ref().and_then(|(again, key)| again.get(|list| list == key));
        if let Some(Some(kept)) = &before {
            kept.iter().try_for_each(&mut embed)?;
        } else {
            let mut found = Found::of(self.world.share(texts.len()).len());
            for chunk in self.own(texts.chunks(self.batch_size).collect()) {
                let (ids, tokens) = self.tokenizer.encode_batch(chunk.iter().copied())?;
                let input_ids = Tensor::from_vec(ids, (chunk.len(), tokens), self.device)?;
                let states = self.model.text_states(&input_ids)?.tensor().clone();
                embed(&states)?;
                // Where nothing comes again, nothing is held.
                if again.is_some() && before.is_none() {
                    let bytes = bytes_of(&states);
                    found.add(states, chunk.len(), bytes);
                }
            }
            if let (Some((again, key)), None) = (again, &before) {
                again.put(key, found);
            }
        }
        finite(self.gather(&rows)?, "text features")
    }

    /// [`Self::texts`] of the token ids of each text, as [`super::Tokenized`] has them. What frozen layers make of them
    /// is not kept.
    ///
    /// # Errors
    /// Whatever the model reports; features that are not finite.
    pub fn texts_of_ids(&self, ids: &[Vec<u32>]) -> Result<Embeddings> {
        self.embeddings(ids.len(), "text features", |batch| {
            let (padded, tokens) = self.tokenizer.pad(&ids[batch.clone()]);
            let input_ids = Tensor::from_vec(padded, (batch.len(), tokens), self.device)?;
            Ok(self.model.text_features(&input_ids)?)
        })
    }

    /// Rows of `count` items, (count, embed_dim), L2-normalised, which `features`, called `what`, gives of each batch
    /// of them, as [`Self::images`] does it of images.
    ///
    /// # Errors
    /// Those of `features`; features that are not finite.
    pub fn embeddings(
        &self,
        count: usize,
        what: &str,
        features: impl Fn(Range<usize>) -> Result<Value>,
    ) -> Result<Embeddings> {
        let batches = (0..count).step_by(self.batch_size).map(|start| start..count.min(start + self.batch_size));
        let embed = |batch| Ok(l2_normalize(features(batch)?.tensor())?.to_device(&Device::Cpu)?);
        let rows = self.own(batches.collect()).map(embed).collect::<Result<Vec<_>>>()?;
        let rows = self.gather(&rows)?;
        ensure!(rows.dim(0)? == count, "{} embeddings of {count} items", rows.dim(0)?);
        finite(rows, what)
    }

    /// Whole batches, so that each row is worked out among the same others whatever the number of ranks.
    fn own<T>(&self, batches: Vec<T>) -> impl Iterator<Item = T> + use<T> {
        let own = self.world.share(batches.len());
        batches.into_iter().skip(own.start).take(own.len())
    }

    fn gather(&self, own: &[Tensor]) -> Result<Embeddings> {
        self.world.gather_parts(own, self.model.embed_dim(), &Device::Cpu)
    }
}

/// A digest over what is in a list.
fn digest(items: impl IntoIterator<Item = impl AsRef<[u8]>>) -> String {
    let mut digest = ContentHash::default();
    items.into_iter().for_each(|item| digest.field(item));
    digest.hex()
}

fn bytes_of(x: &Tensor) -> usize {
    x.elem_count() * x.dtype().size_in_bytes()
}

/// The images of a batch.
struct Decoded {
    /// `pixel_values` of all.
    values: Vec<f32>,
    /// Of each source the places of its images.
    places: Vec<Vec<f32>>,
}

fn decoded(preprocess: &Preprocess, policy: &BagPolicy, sources: &[ImageSource]) -> Result<Decoded> {
    let (mut values, mut places) = (Vec::new(), Vec::new());
    for source in sources {
        let read = Members::of(source.clone(), policy).and_then(|members| {
            let chosen = policy.fixed(members.count());
            members.read(&chosen, policy, |picture| preprocess.prepare(picture, None))
        });
        let read = read.map_err(|e| UnreadableImage { image: source.clone(), reason: one_line(&e) })?;
        places.push(read.iter().map(|member| member.place).collect());
        for member in read {
            let start = values.len();
            values.resize(start + member.prepared.len(), 0.0);
            member.prepared.write(&mut values[start..]);
        }
    }
    Ok(Decoded { values, places })
}

/// An image that could not be turned into `pixel_values`.
#[derive(Debug, thiserror::Error)]
#[error("image {reason}")]
pub struct UnreadableImage {
    /// Which.
    pub image: ImageSource,
    /// What is wrong, with the file's name.
    pub reason: String,
}

/// Figures of features that are not numbers would look like figures.
pub(super) fn finite(rows: Embeddings, what: &str) -> Result<Embeddings> {
    ensure!(squared_sum(&rows)?.is_finite(), "the {what} are not finite: the weights or the config are broken");
    Ok(rows)
}
