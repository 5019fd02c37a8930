//! Making an index of one file.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Tensor;

use super::content::VectorContent;
use super::gallery::{Gallery, Vectors};
use super::identity::{Origins, access};
use super::items::{IndexContents, Items, source};
use super::source::{About, IndexSource};
use super::tensors;
use crate::config::Precision;
use crate::session::{Session, Tokenized, model_content};

/// Room for what rows were made from in an index's header, of which safetensors allows 100 MB.
const MOST_IDENTITIES: usize = 80_000_000;
/// Largest logits_per_image that is kept: 1 GiB. What is left out is one product of the two embeddings.
const MOST_LOGITS: usize = 1 << 28;

/// By what an index is made.
#[derive(Clone, Copy, Debug)]
pub struct IndexModel<'a> {
    /// Folder or hub id of the model.
    pub name: &'a str,
    /// "auto", "cpu", "cuda" or "cuda:N".
    pub device: &'a str,
    /// In which type products are asked for.
    pub precision: Precision,
    /// Items at once.
    pub batch_size: usize,
}

/// Embeddings with what they are of.
pub struct Embedded {
    /// What they are of.
    pub source: IndexSource,
    /// (images, embed_dim), rows L2-normalised.
    pub image_embeds: Option<Tensor>,
    /// (texts, embed_dim), rows L2-normalised.
    pub text_embeds: Option<Tensor>,
    /// Whether names of images are kept.
    pub keeps_names: bool,
    /// (images, texts): the model's own logits; only where both are there, and few enough.
    pub logits_per_image: Option<Tensor>,
}

/// Encodes `contents` by `model`, for the file `out`. Names of images, which may be names of patients, are written into
/// the index only if `keep_names`.
///
/// # Errors
/// Nothing to embed; a model, a manifest or an image that cannot be read; `out` is one of what is read.
pub fn build(contents: &IndexContents, model: IndexModel, out: &Path, keep_names: bool) -> Result<Embedded> {
    let name = model.name;
    let items = Items::read(contents, name, out, keep_names)?;
    let (images, texts) = (items.images(0..usize::MAX), items.texts(0..usize::MAX)?);
    let mut source = source(contents, name);
    source.origins = items.origins(0..usize::MAX);
    if items.size_of_origins() > MOST_IDENTITIES {
        tracing::warn!(
            "the index has too many rows for one file to say what each was made from; `search` will show numbers only, \
             where an index in a folder (`--out FOLDER/`) would say"
        );
        source.origins = Origins::default();
    }
    let session = Session::open(name, model.device)?.in_precision(model.precision);
    source.precision = session.precision();
    // The commit of a repository that was not in the cache is known only now.
    source.model_content = model_content(name)?;
    let tokenizer = &session.folder.tokenizer;
    let tokens = Tokenized::of(tokenizer, &texts)?;
    drop(texts);
    tokens.warn_cut(tokenizer, "texts");
    let texts = tokens.ids;
    let encoder = session.encoder(model.batch_size)?;
    let image_embeds = if images.is_empty() { None } else { Some(encoder.images(&images)?) };
    let text_embeds = if texts.is_empty() { None } else { Some(encoder.texts_of_ids(&texts)?) };
    let logits_per_image = match (&image_embeds, &text_embeds) {
        (Some(_), Some(_)) if images.len() * texts.len() > MOST_LOGITS => {
            tracing::warn!("logits_per_image is left out: {} × {} numbers are too many", images.len(), texts.len());
            None
        }
        (Some(images), Some(texts)) => Some(session.logits_per_image(images, texts)?),
        _ => None,
    };
    Ok(Embedded { source, image_embeds, text_embeds, keeps_names: keep_names, logits_per_image })
}

impl Embedded {
    /// Its tensors with their names.
    pub fn tensors(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        let all = [&self.image_embeds, &self.text_embeds, &self.logits_per_image];
        [tensors::IMAGES, tensors::TEXTS, "logits_per_image"]
            .into_iter()
            .zip(all)
            .filter_map(|(n, t)| Some((n, t.as_ref()?)))
    }

    /// Writes it as a safetensors file; where names are kept, its owner alone may read it.
    ///
    /// # Errors
    /// It cannot be written; an old file is untouched then.
    pub fn write(&self, path: &Path) -> Result<()> {
        let held = |tensor: &Tensor| -> Result<Gallery> {
            let ((rows, width), numbers) = (tensor.dims2()?, tensor.flatten_all()?.to_vec1()?);
            Gallery::of([(rows, width, Vectors::Held(numbers))])?.context("holds no embeddings")
        };
        let galleries = self.image_embeds.iter().chain(&self.text_embeds).map(held).collect::<Result<Vec<_>>>()?;
        let content = VectorContent::of(&galleries.iter().collect::<Vec<_>>())?;
        let about = About { source: &self.source, vectors: Some(content) };
        tensors::write(path, self.tensors(), Some(serde_json::to_string(&about)?), access(self.keeps_names))
    }
}
