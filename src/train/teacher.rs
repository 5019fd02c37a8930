//! A larger model whose similarities are learnt: encoded once, and kept on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

use super::checkpoint::tensors_of;
use super::kept_features;
use super::readable::readable_images;
use super::stop;
use crate::config::Config;
use crate::data::{BagPolicy, ImageFiles, ImageSource, OnError, Row};
use crate::digest::{ContentHash, Depth};
use crate::fs::Access;
use crate::loss::{TeacherRows, Vectors};
use crate::model::checkpoint::save_safetensors;
use crate::seed::name_index;
use crate::session::{Encoder, Session};

/// What the teacher makes of the pairs of all splits.
pub(super) struct Teacher {
    /// Where each pair's vectors are.
    places: BTreeMap<(u64, u64), usize>,
    /// (pairs, width)
    images: Vec<f32>,
    texts: Vec<f32>,
    width: usize,
    scale: f64,
}

impl Teacher {
    /// Of `rows`, as `config` names it. Read from the file that an earlier run of the same teacher, pairs and version
    /// left in the folder of kept features, or the first rank of this host, of which `local` tells: ranks prepare in
    /// turn.
    ///
    /// # Errors
    /// There is no such model; an image that cannot be read, where `data.on_error` says so; the disk is full.
    pub fn of<'a>(config: &Config, local: (usize, usize), rows: impl Iterator<Item = &'a Row>) -> Result<Option<Self>> {
        let Some(name) = &config.loss.teacher else { return Ok(None) };
        let session = Session::open_on(name, &config.device, local)?;
        let (mut places, mut pairs) = (BTreeMap::new(), Vec::new());
        for row in rows {
            places.entry(place_of(row)).or_insert_with(|| {
                pairs.push(row);
                pairs.len() - 1
            });
        }
        let encoder = Encoder {
            bags: BagPolicy::from(&config.data).evenly(),
            workers: config.data.workers,
            ..session.encoder(config.eval.batch_size)?
        };
        let key = key(&session, &encoder, &pairs)?;
        let path = kept_features::folder(config, &config.output).join(format!("teacher-{}.safetensors", &key[..16]));
        let (images, texts) = read_or_encode(&encoder, &path, &pairs, config.data.on_error)?;
        let numbers = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
        Ok(Some(Self {
            places,
            width: images.dim(1)?,
            images: numbers(&images)?,
            texts: numbers(&texts)?,
            scale: f64::from(encoder.model.scale()?.to_scalar::<f32>()?),
        }))
    }

    /// Of `rows`, one after the other; `None` where one of them was not encoded.
    pub fn rows(&self, rows: &[Row]) -> Option<TeacherRows> {
        let places: Vec<usize> =
            rows.iter().map(|row| self.places.get(&place_of(row)).copied()).collect::<Option<_>>()?;
        let vectors = |all: &[f32]| {
            let row = |&place: &usize| all[place * self.width..(place + 1) * self.width].iter().copied();
            Vectors::new(places.iter().flat_map(row).collect(), self.width)
        };
        Some(TeacherRows { images: vectors(&self.images), texts: vectors(&self.texts), scale: self.scale })
    }
}

impl std::fmt::Debug for Teacher {
    /// Ranks compare what they know as text; of the vectors the targets tell.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Teacher({} pairs, scale {})", self.places.len(), self.scale)
    }
}

fn place_of(row: &Row) -> (u64, u64) {
    (name_index(row.image_name()), name_index(row.report()))
}

/// Over all that the vectors depend on: weights, preprocessing, tokenizer, which images of a bag are read, the type of
/// products, and what images and reports hold.
fn key(session: &Session, encoder: &Encoder, pairs: &[&Row]) -> Result<String> {
    let layers = format!("{:?} {:?} {:?}", session.folder.config, encoder.bags, session.products);
    let mut key = kept_features::key(&layers, session.params.iter())?;
    key.field(encoder.preprocess.to_json().to_string());
    key.field(format!("{} {}", encoder.tokenizer.class(), encoder.tokenizer.context_length()));
    for (name, bytes) in encoder.tokenizer.files() {
        key.field(name);
        key.field(bytes);
    }
    let files = ImageFiles::of(pairs);
    let contents = files.contents(Depth::of(files.bytes()), &stop::asked).context("stopped while images were read")?;
    for (pair, content) in pairs.iter().zip(&contents) {
        key.field(content);
        // Of a file of several, its name tells which is read.
        key.field(pair.image_name());
        key.field(pair.report());
    }
    Ok(key.hex())
}

/// Embeddings of the pairs' images and texts: those in the file, where it is whole, or new ones, left there. Of an
/// image that cannot be read zeros stand for it, and no file is left.
fn read_or_encode(encoder: &Encoder, path: &Path, pairs: &[&Row], on_error: OnError) -> Result<(Tensor, Tensor)> {
    let read = || -> Option<(Tensor, Tensor)> {
        let mut kept = tensors_of(path).ok()?;
        let (of_images, of_texts) = (kept.remove("image_embeds")?, kept.remove("text_embeds")?);
        let whole = of_images.dim(0).ok()? == pairs.len() && of_texts.dim(0).ok()? == pairs.len();
        // Damaged numbers would be learnt from without a word.
        let written = kept.remove("digest")?.flatten_all().ok()?.to_vec1::<u8>().ok()?;
        (whole && written == digest(&of_images, &of_texts).ok()?).then_some((of_images, of_texts))
    };
    if let Some(kept) = read() {
        return Ok(kept);
    }
    let images: Vec<ImageSource> = pairs.iter().map(|pair| pair.image()).collect();
    let texts: Vec<&str> = pairs.iter().map(|pair| pair.report()).collect();
    let (readable, of_readable) = readable_images(encoder, &images, on_error)?;
    let of_texts = encoder.texts(&texts)?;
    if readable.len() < pairs.len() {
        let zeros = Tensor::zeros((pairs.len(), of_readable.dim(1)?), of_readable.dtype(), of_readable.device())?;
        let of_images = zeros.index_add(&Tensor::new(readable, of_readable.device())?, &of_readable, 0)?;
        return Ok((of_images, of_texts));
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let digest = Tensor::new(digest(&of_readable, &of_texts)?, &Device::Cpu)?;
    let named = [("image_embeds", &of_readable), ("text_embeds", &of_texts), ("digest", &digest)];
    let tensors = named.map(|(name, tensor)| (name.to_string(), tensor.clone()));
    Access::Owner.replace_with(path, |temporary| save_safetensors(temporary, &tensors))?;
    Ok((of_readable, of_texts))
}

/// 32 bytes over all numbers.
fn digest(images: &Tensor, texts: &Tensor) -> Result<Vec<u8>> {
    let mut hash = ContentHash::default();
    hash.numbers(images)?;
    hash.numbers(texts)?;
    Ok(hash.bytes().to_vec())
}
