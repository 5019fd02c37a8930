//! Which images of a bag make it alike to a text.

use anyhow::{Context, Result};
use candle_core::Device;

use crate::data::{Bags, Images, Members};
use crate::ops::reference::l2_normalize;
use crate::session::Session;

/// What the bag and the text have in common.
#[derive(Clone, Debug)]
pub struct BagExplanation {
    /// Cosine of the bag and the text.
    pub cosine: f64,
    /// Images of the bag, also those that are not read.
    pub count: usize,
    /// Those that are read, in order.
    pub images: Vec<BagImage>,
}

/// An image of a bag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BagImage {
    /// Its number in the bag, from 0.
    pub number: usize,
    /// Its share in the bag's vector: attention's weight; `None` where the largest numbers are taken.
    pub share: Option<f32>,
    /// Its part of the bag's cosine; all parts add up to that.
    pub part: f64,
    /// Its own cosine.
    pub alone: f64,
}

impl BagExplanation {
    /// The image whose part is the largest, of equal ones the first in the bag.
    pub fn first(&self) -> Option<&BagImage> {
        self.images.iter().rev().max_by(|a, b| a.part.total_cmp(&b.part))
    }
}

/// Explains the cosine of the images of a bag together with `text`.
///
/// # Errors
/// An image that cannot be read; whatever tokenizer or model report.
pub fn explain_bag(session: &Session, members: &Members, text: &str) -> Result<BagExplanation> {
    let (folder, encoder) = (&session.folder, session.encoder(8)?);
    let chosen = encoder.bags.fixed(members.count());
    let read = members.read(&chosen, &encoder.bags, |picture| folder.preprocess.prepare(picture, None))?;
    let numbers: Vec<usize> = read.iter().map(|member| member.number).collect();
    let places: Vec<f32> = read.iter().map(|member| member.place).collect();
    let size = folder.config.vision.image_size();
    let images = Images::Prepared(read.into_iter().map(|member| member.prepared).collect());
    let pixel_values = images.to_tensor((numbers.len(), 3, size, size), &session.device)?;
    let features = encoder.features_of_all(&pixel_values)?;
    let bags = Bags::of(std::slice::from_ref(&places)).unwrap_or_else(|| Bags::of_single(1));
    let shares = encoder.model.bag_shares(&features.clone().into(), &bags.segments, &places)?;
    let pooled = encoder.model.pool_bags(&features.clone().into(), &bags.segments, &places)?;
    let pooled: Vec<f32> = pooled.tensor().to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?;
    let units: Vec<Vec<f32>> = l2_normalize(&features)?.to_device(&Device::Cpu)?.to_vec2()?;
    let words: Vec<f32> = encoder.texts(&[text])?.flatten_all()?.to_vec1()?;
    let norm = dot(&pooled, &pooled).sqrt().max(1e-12);
    // How many images have the largest number of a column.
    let holding = |(i, y): (usize, &f32)| units.iter().filter(|unit| unit[i] == *y).count().max(1) as f64;
    let holders: Vec<f64> = pooled.iter().enumerate().map(holding).collect();
    let of_largest = |unit: &[f32]| -> f64 {
        let columns = unit.iter().zip(&pooled).zip(&words).enumerate();
        columns.filter(|(_, ((x, y), _))| x == y).map(|(i, ((x, _), w))| f64::from(x * w) / holders[i]).sum()
    };
    let image = |(i, (&number, unit)): (usize, (&usize, &Vec<f32>))| {
        let share = shares.as_ref().map(|shares| shares[i]);
        let alone = dot(unit, &words);
        let part = share.map_or_else(|| of_largest(unit), |share| f64::from(share) * alone) / norm;
        BagImage { number, share, part, alone }
    };
    let images: Vec<BagImage> = numbers.iter().zip(&units).enumerate().map(image).collect();
    images.first().context("a bag without images")?;
    Ok(BagExplanation { cosine: dot(&pooled, &words) / norm, count: members.count(), images })
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
