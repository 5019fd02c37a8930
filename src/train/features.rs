//! What the towers make of a step's chunks: one more part of [`TrainStep`].

use std::rc::Rc;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::found::{Found, ImageFeatures, Local, Run};
use super::prompt_tokens::SentenceFeatures;
use super::sentence_tokens::{SentenceTokens, StepSentences};
use super::step::TrainStep;
use super::supervision::Supervision;
use crate::data::{Bags, Batch, Images};
use crate::model::freeze::FreezeDepth;
use crate::model::{self, ClipModel, Param};
use crate::ops::{self, Segments, Tape, Value, recomputed};

impl TrainStep<'_> {
    /// image_features of a batch: those of its images, or what stands for those of each bag, which has the patches of
    /// all its images.
    pub(super) fn images(&self, run: Run, batch: &Batch) -> Result<ImageFeatures> {
        let single = || Bags::of_single(batch.pairs);
        // Attention is trained whether a batch has bags of several images or not.
        let bags = batch.bags.clone().or_else(|| self.config.bag_pooling.has_weights().then(single));
        let count = bags.as_ref().map_or(batch.pairs, |bags| bags.segments.rows());
        let features = self.image_features(run, batch, count)?;
        let (features, patches) = if self.loss.uses_places() {
            let each = features.tensor().dim(0)? / count - 1;
            let rows = |from: usize, to: usize| (from as u32..to as u32).collect::<Vec<_>>();
            let patches = ops::select_rows(&features, &rows(count, count * (1 + each)))?;
            (ops::select_rows(&features, &rows(0, count))?, Some((patches, each)))
        } else {
            (features, None)
        };
        let length = |images: usize, each: usize| (images * each) as u32;
        let lengths = |each: usize| match &bags {
            None => vec![length(1, each); count],
            Some(bags) => bags.segments.spans().map(|(_, images)| length(images, each)).collect(),
        };
        let patches = patches.map(|(patches, each)| (patches, lengths(each)));
        let whole = match &bags {
            None => features,
            Some(bags) => run.model.pool_bags(&features, &bags.segments, &bags.places)?,
        };
        Ok(ImageFeatures { whole, patches })
    }

    /// image_features of the `count` images of a batch, (images, embed_dim), below them those of their patches where
    /// the loss looks at these.
    fn image_features(&self, run: Run, batch: &Batch, count: usize) -> Result<Value> {
        let places = self.loss.uses_places();
        let tower = move |x: &Tensor, model: &ClipModel, frozen: Option<FreezeDepth>| match frozen {
            Some(frozen) => model.image_features_above(x.clone(), frozen),
            None if places => model.image_features_with_patches(x),
            None => model.image_features(x),
        };
        let (x, frozen) = if let Images::Features(numbers) = &batch.images {
            // Of layers that see rows of a tower, an image has several.
            let width = self.config.vision.width();
            let frozen = self.frozen.context("image features of frozen layers, and nothing is frozen")?;
            (batch.images.to_tensor((numbers.len() / width, width), self.device)?, Some(frozen.image()))
        } else {
            let size = self.config.vision.image_size();
            (batch.images.to_tensor((count, 3, size, size), self.device)?, None)
        };
        if batch.bags.is_none() || count <= self.images_at_once {
            return Ok(tower(&x, run.model, frozen)?);
        }
        let (weights, each) = (self.weights(run.tape, model::Part::Image), x.dim(0)? / count);
        let weights: Vec<&Value> = weights.iter().collect();
        let mut parts = Vec::new();
        for (part, start) in (0..count).step_by(self.images_at_once).enumerate() {
            let images = self.images_at_once.min(count - start);
            let x = x.narrow(0, start * each, images * each)?.into();
            let (model, noise) = (Rc::clone(run.model), self.noise.cloned());
            let features = recomputed(&x, &weights, move |x| {
                // Parts are dropped from as chunks are, each in its own way.
                let features = || tower(x.tensor(), &model, frozen);
                let Some(noise) = &noise else { return features() };
                noise.during(noise.chunk.get() + ((part as u64 + 1) << PART_SHIFT), features)
            })?;
            parts.push((features, images));
        }
        one_after_another(parts, places)
    }

    /// The trained weights that lie between pixels and image_features, or ids and text_features.
    fn weights(&self, tape: &Rc<Tape>, part: model::Part) -> Vec<Value> {
        let projection = if part == model::Part::Image { "visual_projection." } else { "text_projection." };
        let of_side = |p: &Param| p.spec.part == part || p.spec.name.starts_with(projection);
        let trained = self.params.numbered().filter(|(_, p)| p.trainable && of_side(p));
        trained.map(|(number, p)| tape.leaf(number, p.var.as_detached_tensor())).collect()
    }

    /// text_features of a batch, (pairs + opposed, embed_dim), where the loss looks at them.
    pub(super) fn texts(&self, model: &ClipModel, batch: &Batch) -> Result<Option<Value>> {
        if !self.loss.uses_reports() {
            return Ok(None);
        }
        let ids_from = |first: usize| {
            let count = batch.pairs + batch.opposed.len() - first;
            Tensor::from_slice(&batch.input_ids[first * batch.tokens..], (count, batch.tokens), self.device)
        };
        let Some(states) = &batch.text_states else { return Ok(Some(model.text_features(&ids_from(0)?)?)) };
        let mut states = Tensor::from_slice(states, (batch.pairs, self.config.text.width()), self.device)?;
        if !batch.opposed.is_empty() {
            // They are others at each step.
            let opposed = model.text_states(&ids_from(batch.pairs)?)?;
            states = Tensor::cat(&[&states, opposed.tensor()], 0)?;
        }
        Ok(Some(model.project_text(&states.into())?))
    }

    /// Features of each batch.
    pub(super) fn features(&self, run: Run, batches: &[Batch]) -> Result<Found> {
        let mut found = Found::default();
        for (i, batch) in batches.iter().enumerate() {
            self.chunk(i);
            found.add(Some(&self.images(run, batch)?), self.texts(run.model, batch)?.as_ref());
        }
        Ok(found)
    }

    /// Patches and sentences of a step made of these rows of all ranks, where the loss looks at them.
    pub(super) fn local(&self, run: Run, rows: &[u32], found: &Found) -> Result<Option<Local>> {
        if !self.loss.uses_places() {
            return Ok(None);
        }
        let sentences = self.supervision.and_then(Supervision::sentences).context("sentences of the reports")?;
        let StepSentences { numbers, of_pairs } = sentences.of(rows);
        let (lengths, _) = self.world.gather_numbers(&found.lengths)?;
        Ok(Some(Local {
            patches: self.gather(&found.patches)?,
            segments: Segments::of_lengths(lengths.into_iter().map(|length| length as usize)),
            sentences: self.sentences(run, sentences, &numbers)?,
            of_pairs,
        }))
    }

    /// Features of sentences, each rank its share, all get all. Parts of as many as there are pairs in a chunk keep
    /// only their ids for the backward pass.
    fn sentences(&self, run: Run, tokens: &SentenceTokens, numbers: &[u32]) -> Result<SentenceFeatures> {
        let share = self.world.share(numbers.len());
        let own = match self.sentences {
            Some(_) if share.is_empty() => None,
            Some(kept) => {
                let states = kept.read_at_once(&numbers[share.clone()])?;
                let states = Tensor::from_vec(states, (share.len(), self.config.text.width()), self.device)?;
                Some(run.model.project_text(&states.into())?)
            }
            None => self.encoded_sentences(run, tokens, &numbers[share.clone()])?,
        };
        let parts: Vec<Tensor> = own.iter().map(|v| v.tensor().clone()).collect();
        Ok(SentenceFeatures { all: self.gather(&parts)?, own, share })
    }

    /// Of these sentences, through the whole text tower; `None` of none.
    fn encoded_sentences(&self, run: Run, tokens: &SentenceTokens, numbers: &[u32]) -> Result<Option<Value>> {
        let weights = self.weights(run.tape, model::Part::Text);
        let weights: Vec<&Value> = weights.iter().collect();
        let chunk = self.noise.map_or(0, |noise| noise.chunk.get());
        let mut own: Option<Value> = None;
        for (part, numbers) in numbers.chunks(self.images_at_once).enumerate() {
            let (ids, each) = tokens.padded(numbers);
            let ids = Tensor::from_vec(ids, (numbers.len(), each), self.device)?;
            let (model, noise) = (Rc::clone(run.model), self.noise.cloned());
            let features = recomputed(&ids.into(), &weights, move |ids| {
                let features = || model.text_features(ids.tensor());
                let Some(noise) = &noise else { return features() };
                noise.during(chunk + ((FIRST_OF_SENTENCES + part as u64) << PART_SHIFT), features)
            })?;
            own = Some(own.map_or(Ok(features.clone()), |own| ops::concat_rows(&own, &features))?);
        }
        Ok(own)
    }
}

/// Parts of a batch as one: the rows of all images, then those of all patches. With each part goes how many images it
/// has.
fn one_after_another(parts: Vec<(Value, usize)>, places: bool) -> Result<Value> {
    let mut all: Option<Value> = None;
    let (mut firsts, mut rest) = (Vec::new(), Vec::new());
    let mut start = 0;
    for (part, count) in parts {
        let rows = part.tensor().dim(0)?;
        firsts.extend((start..start + count).map(|row| row as u32));
        rest.extend((start + count..start + rows).map(|row| row as u32));
        start += rows;
        all = Some(all.map_or(Ok(part.clone()), |all| ops::concat_rows(&all, &part))?);
    }
    let all = all.context("a batch without images")?;
    firsts.extend(rest);
    if places { Ok(ops::select_rows(&all, &firsts)?) } else { Ok(all) }
}

/// Where the number of a part stands in a chunk's: above those of all chunks of a rank.
const PART_SHIFT: u32 = 16;

/// Parts of sentences are numbered behind those of images.
const FIRST_OF_SENTENCES: u64 = 1 << 15;
