//! A larger model whose similarities are learnt: encoded once, and kept on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Error, Result};
use candle_core::{Device, Tensor};

use super::checkpoint::tensors_of;
use super::kept_features;
use super::readable::readable_images;
use super::stop;
use crate::config::Config;
use crate::data::{BagPolicy, ImageFiles, OnError, Row};
use crate::digest::{ContentHash, Depth};
use crate::error::{Problem, Problems, one_line};
use crate::fs::Access;
use crate::hub::{HubError, ModelFiles, Source};
use crate::loss::{TeacherRows, Vectors};
use crate::model::checkpoint::{inspect, save_safetensors};
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
    /// SHA-256 over what it is, whatever it is called and whatever the pairs are.
    content: String,
}

impl Teacher {
    /// Of `rows`, as `config` names it. Read from the file that an earlier run of the same teacher, pairs and version
    /// left in the folder of kept features, or the first rank of this host, of which `local` tells: ranks prepare in
    /// turn.
    ///
    /// # Errors
    /// [`Problems`] where there is no such model; any other reason why it cannot be opened; an image that cannot be
    /// read, where `data.on_error` says so; the disk is full.
    pub fn of<'a>(config: &Config, local: (usize, usize), rows: impl Iterator<Item = &'a Row>) -> Result<Option<Self>> {
        let Some(name) = &config.loss.teacher else { return Ok(None) };
        let session = Session::open_on(name, &config.device, local)
            .map_err(|e| if is_no_model(name, &e) { wrong(&e).into() } else { e })?;
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
        let content = content(&session, &encoder)?;
        let key = key(&session, &encoder, &content, &pairs)?;
        let path = kept_features::folder(config, &config.output).join(format!("teacher-{}.safetensors", &key[..16]));
        let (images, texts) = read_or_encode(&encoder, &path, &pairs, config.data.on_error)?;
        let numbers = |t: &Tensor| -> Result<Vec<f32>> { Ok(t.flatten_all()?.to_vec1()?) };
        Ok(Some(Self {
            places,
            width: images.dim(1)?,
            images: numbers(&images)?,
            texts: numbers(&texts)?,
            scale: f64::from(encoder.model.scale()?.to_scalar::<f32>()?),
            content,
        }))
    }

    /// SHA-256 over its weights, preprocessing and tokenizer: by this a run knows it again.
    pub fn content(&self) -> &str {
        &self.content
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

/// That the config names what can be a model. Opens nothing but its folder and makes no request.
///
/// # Errors
/// [`Problems`]: there is no such folder, or nothing could be called that.
pub(super) fn check_name(config: &Config) -> Result<()> {
    let Some(name) = &config.loss.teacher else { return Ok(()) };
    Source::parse(name).and_then(|source| ModelFiles::open(&source)).map_err(|e| wrong(&e.into()))?;
    Ok(())
}

/// Whether `error` is of the name, so that another run of the same command ends alike: not of the network, the memory
/// or the device.
fn is_no_model(name: &str, error: &Error) -> bool {
    let of_name = |e: &HubError| {
        use HubError::{BadFolder, BadSource, RepoNotFound, RevisionNotFound};
        matches!(e, BadFolder(..) | BadSource(..) | RepoNotFound(..) | RevisionNotFound(..))
    };
    match Source::parse(name).and_then(|source| ModelFiles::open(&source)) {
        // Configs and the weights' headers alone.
        Ok(files) if matches!(files.source(), Source::Folder(_)) => inspect(&files).is_err(),
        _ => error.chain().any(|e| e.downcast_ref().is_some_and(of_name)),
    }
}

/// `error` as one of the config's key.
fn wrong(error: &Error) -> Problems {
    Problems(vec![Problem(format!("loss.teacher: {}", one_line(error)))])
}

/// Over weights, preprocessing and tokenizer; nothing that another version of this program would write otherwise.
fn content(session: &Session, encoder: &Encoder) -> Result<String> {
    let mut content = ContentHash::default();
    for param in session.params.iter() {
        content.field(&param.spec.name);
        content.numbers(&param.var)?;
    }
    content.field(encoder.preprocess.to_json().to_string());
    content.field(format!("{} {}", encoder.tokenizer.class(), encoder.tokenizer.context_length()));
    for (name, bytes) in encoder.tokenizer.files() {
        content.field(name);
        content.field(bytes);
    }
    Ok(content.hex())
}

/// Over all that the vectors depend on: what the teacher is, its layers, which images of a bag are read, the type of
/// products, and what images and reports hold.
fn key(session: &Session, encoder: &Encoder, content: &str, pairs: &[&Row]) -> Result<String> {
    let layers = format!("{:?} {:?} {:?}", session.folder.config, encoder.bags, session.products);
    let mut key = kept_features::key(&layers, std::iter::empty())?;
    key.field(content);
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
    let texts: Vec<&str> = pairs.iter().map(|pair| pair.report()).collect();
    let (readable, of_readable) = readable_images(encoder, pairs, on_error)?;
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
