//! Which images of a bag make it alike to a text.

use std::rc::Rc;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use serde::Serialize;

use crate::data::{Bags, Images, Member, Members};
use crate::model::ClipModel;
use crate::ops::Tape;
use crate::ops::reference::l2_normalize;
use crate::session::{Embeddings, Session};

/// Images that go through the tower together.
const AT_ONCE: usize = 8;

/// What the bag and the text have in common.
#[derive(Clone, Debug)]
pub struct BagExplanation {
    /// Cosine of the bag and the text.
    pub cosine: f64,
    /// Images of the bag, also those that are not read.
    pub count: usize,
    /// Those that are read, in order.
    pub images: Vec<BagImage>,
    /// Of each of these the gradient of the cosine on its image_features.
    pub(super) gradients: Vec<Vec<f32>>,
    /// The text's embedding, (1, embed_dim).
    pub(super) text: Embeddings,
}

/// An image of a bag.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BagImage {
    /// Its number in the bag, from 0.
    #[serde(rename = "image")]
    pub number: usize,
    /// Its share in the bag's vector: attention's weight; `None` where the largest numbers are taken.
    pub share: Option<f32>,
    /// Its part of the bag's cosine; all parts add up to that.
    pub part: f64,
    /// Gradient × input: how much faster than its embedding the bag's cosine falls, to first order, where that one is
    /// made smaller. What pooling makes of it, attention's scores too, and that a bag has length 1, are in it.
    pub gradient: f64,
    /// Its share of all gradients × inputs that raise the cosine; 0 where it lowers it.
    pub gradient_share: f64,
    /// Its own cosine.
    #[serde(rename = "cosine")]
    pub alone: f64,
}

impl BagExplanation {
    /// The image whose part is the largest, of equal ones the first in the bag.
    pub fn first(&self) -> Option<&BagImage> {
        self.ranked().first().map(|&at| &self.images[at])
    }

    /// Numbers of the `top` images with the largest parts, ascending.
    pub fn top(&self, top: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = self.ranked().into_iter().take(top).map(|at| self.images[at].number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Where the images stand among those that are read, the largest part first, of equal ones the first in the bag.
    pub fn ranked(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.images.len()).collect();
        order.sort_by(|&a, &b| self.images[b].part.total_cmp(&self.images[a].part));
        order
    }
}

/// The images of a bag that a model reads.
#[derive(Debug)]
pub struct ReadBag {
    /// Those that are read, in order.
    pub read: Vec<Member>,
    /// Images of the bag, also those that are not read.
    pub count: usize,
}

impl ReadBag {
    /// Those of `members` that `session` reads.
    ///
    /// # Errors
    /// An image that cannot be read.
    pub fn of(session: &Session, members: &Members) -> Result<Self> {
        let (preprocess, policy, count) = (&session.folder.preprocess, session.folder.bags.evenly(), members.count());
        let read = members.read(&policy.fixed(count), &policy, |picture| preprocess.prepare(picture, None))?;
        Ok(Self { read, count })
    }
}

/// Explains the cosine of the images of a bag together with `text`. Images go through the tower a few at a time, and
/// keep their features alone.
///
/// # Errors
/// A bag without images; whatever tokenizer or model report.
pub fn explain_bag(session: &Session, bag: ReadBag, text: &str) -> Result<BagExplanation> {
    let (folder, encoder) = (&session.folder, session.encoder(AT_ONCE)?);
    let ReadBag { read, count } = bag;
    let numbers: Vec<usize> = read.iter().map(|member| member.number).collect();
    let places: Vec<f32> = read.iter().map(|member| member.place).collect();
    let size = folder.config.vision.image_size();
    let images = Images::Prepared(read.into_iter().map(|member| member.prepared).collect());
    let pixel_values = images.to_tensor((numbers.len(), 3, size, size), &session.device)?;
    let features = encoder.features_of_all(&pixel_values)?;
    let words = encoder.texts(&[text])?;
    let bag = Bag::of(&encoder.model, &features, &places, &words)?;
    let gradients = bag.on_units.iter().enumerate().map(|(i, gradient)| {
        let along = dot(gradient, &bag.units[i]) as f32;
        gradient.iter().zip(&bag.units[i]).map(|(g, u)| (g - along * u) / bag.lengths[i]).collect()
    });
    let gradients = gradients.collect();
    let images = bag.images(&numbers, &words.flatten_all()?.to_vec1()?);
    images.first().context("a bag without images")?;
    Ok(BagExplanation { cosine: bag.cosine, count, images, gradients, text: words })
}

/// A bag's numbers, on the CPU.
struct Bag {
    cosine: f64,
    /// Its vector, not normalised.
    pooled: Vec<f32>,
    /// Embeddings of its images, of length 1, and how long they were.
    units: Vec<Vec<f32>>,
    lengths: Vec<f32>,
    shares: Option<Vec<f32>>,
    /// Gradients of the cosine on the embeddings.
    on_units: Vec<Vec<f32>>,
}

impl Bag {
    /// Of image_features (images, embed_dim), with their places, and the text's embedding (1, embed_dim).
    fn of(model: &ClipModel, features: &Tensor, places: &[f32], words: &Tensor) -> Result<Self> {
        let bags = Bags::of(&[places.to_vec()]).unwrap_or_else(|| Bags::of_single(1));
        let shares = model.bag_shares(&features.clone().into(), &bags.segments, places)?;
        let tape: Rc<Tape> = Tape::new(1);
        let units = tape.leaf(0, l2_normalize(features)?);
        let pooled = model.pool_unit_rows(&units, &bags.segments, places)?;
        let vector = Var::from_tensor(pooled.tensor())?;
        let cosine = (l2_normalize(&vector)? * words.to_device(features.device())?)?.sum_all()?;
        let gradient = cosine.backward()?.remove(&vector).context("the cosine has no gradient")?;
        tape.backward([(&pooled, gradient)], &mut |_| Ok(()))?;
        let on_units = tape.take_grad(0).context("the bag has no gradient")?.into_dense()?;
        let rows = |tensor: &Tensor| -> Result<Vec<Vec<f32>>> { Ok(tensor.to_device(&Device::Cpu)?.to_vec2()?) };
        let length = |row: &Vec<f32>| dot(row, row).sqrt().max(1e-12) as f32;
        Ok(Self {
            cosine: f64::from(cosine.to_device(&Device::Cpu)?.to_scalar::<f32>()?),
            pooled: pooled.tensor().to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?,
            units: rows(units.tensor())?,
            lengths: rows(features)?.iter().map(length).collect(),
            shares,
            on_units: rows(&on_units)?,
        })
    }

    /// What each image has to do with it.
    fn images(&self, numbers: &[usize], words: &[f32]) -> Vec<BagImage> {
        let norm = dot(&self.pooled, &self.pooled).sqrt().max(1e-12);
        // How many images have the largest number of a column.
        let holding = |(i, y): (usize, &f32)| self.units.iter().filter(|unit| unit[i] == *y).count().max(1) as f64;
        let holders: Vec<f64> = self.pooled.iter().enumerate().map(holding).collect();
        let of_largest = |unit: &[f32]| -> f64 {
            let columns = unit.iter().zip(&self.pooled).zip(words).enumerate();
            columns.filter(|(_, ((x, y), _))| x == y).map(|(i, ((x, _), w))| f64::from(x * w) / holders[i]).sum()
        };
        let gradients: Vec<f64> = self.units.iter().zip(&self.on_units).map(|(unit, grad)| dot(unit, grad)).collect();
        let rising: f64 = gradients.iter().map(|gradient| gradient.max(0.0)).sum();
        let image = |(i, (&number, unit)): (usize, (&usize, &Vec<f32>))| {
            let share = self.shares.as_ref().map(|shares| shares[i]);
            let alone = dot(unit, words);
            let part = share.map_or_else(|| of_largest(unit), |share| f64::from(share) * alone) / norm;
            let gradient = gradients[i];
            let gradient_share = if rising > 0.0 { gradient.max(0.0) / rising } else { 0.0 };
            BagImage { number, share, part, gradient, gradient_share, alone }
        };
        numbers.iter().zip(&self.units).enumerate().map(image).collect()
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
