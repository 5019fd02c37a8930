//! Finding: the rows of an index that fit a text, an image or both best.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::Tensor;
use rayon::prelude::*;
use serde::Serialize;

use super::gallery::Side;
use super::index::Index;
use super::names::{Hit, Names, Seen};
use super::source::IndexSource;
use crate::data::ImageSource;
use crate::fs::is_same_file;
use crate::session::{Session, UnreadableImage, model_content, warn_cut};

/// What is looked for: a text, an image, or both.
#[derive(Clone, Debug)]
pub struct Query {
    /// A text; among the images, or among the texts where the index has no images.
    pub text: Option<String>,
    /// An image; alone, among the texts, or among the images where the index has no texts.
    pub image: Option<ImageSource>,
    /// How much the text and the image count where both are given.
    pub weights: (f32, f32),
    /// Where it stands in a file of queries, for messages.
    pub place: Option<QueryPlace>,
}

/// Where a query stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryPlace {
    /// Its number among the queries, from 1.
    pub number: usize,
    /// The line of the file on which it begins, from 1.
    pub line: u64,
}

impl fmt::Display for QueryPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query {} (line {})", self.number, self.line)
    }
}

impl Query {
    /// A text.
    pub fn of_text(text: impl Into<String>) -> Self {
        Self { text: Some(text.into()), image: None, weights: (0.5, 0.5), place: None }
    }

    /// An image file.
    pub fn of_image(path: &Path) -> Self {
        Self { text: None, image: Some(path.to_path_buf().into()), weights: (0.5, 0.5), place: None }
    }

    /// Where `index` is looked through for it.
    pub(super) fn side(&self, index: &Index) -> Side {
        side(index, self.text.is_some())
    }
}

/// Where `index` is looked through for a query: images where it has a text, else texts, as far as the index has them.
pub fn side(index: &Index, has_text: bool) -> Side {
    let first = if has_text { Side::Images } else { Side::Texts };
    let other = if first == Side::Images { Side::Texts } else { Side::Images };
    if index.gallery(first).is_some() { first } else { other }
}

/// The vector of a query: of its text or its image, or of both the mean with these weights; `None` of neither.
pub fn joined(text: Option<Vec<f32>>, image: Option<Vec<f32>>, (of_text, of_image): (f32, f32)) -> Option<Vec<f32>> {
    match (text, image) {
        (Some(text), Some(image)) => {
            let mean = |(t, i): (&f32, &f32)| (of_text * t + of_image * i) / (of_text + of_image);
            Some(text.iter().zip(&image).map(mean).collect())
        }
        (text, image) => text.or(image),
    }
}

/// What a search came to.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// `image_embeds` or `text_embeds`; of late interaction, `image_patches` or `text_tokens`.
    pub searched: &'static str,
    /// How many rows those have.
    pub gallery: usize,
    /// The best, the first one first.
    pub hits: Vec<Hit>,
}

/// Makes sure that `model` holds what made `index`, wherever it lies: similarities across models say nothing. A
/// repository of the hub is known once it is opened.
///
/// # Errors
/// The index's own model holds something else by now, or it is another model.
pub fn check_model(index: &IndexSource, model: &str) -> Result<()> {
    let same = match (&index.model_content, model_content(model)?) {
        (Some(before), Some(now)) => *before == now,
        _ => true,
    };
    if same {
        return Ok(());
    }
    let is_its_own = model == index.model || is_same_file(Path::new(model), Path::new(&index.model));
    ensure!(
        !is_its_own,
        "model {model} has changed since the index was made; make a new index with `reportclip embed`"
    );
    anyhow::bail!(
        "the index was made by another model, {}, not by {model}; name that one, or make an index of this one with \
         `reportclip embed --model {model}`",
        index.model
    )
}

/// Makes sure that the model's tokenizer takes the texts of all `queries`, before one is encoded, and warns of those
/// that are cut.
///
/// # Errors
/// One is too long to be tokenized; the message says where it stands.
pub fn check_texts(session: &Session, queries: &[Query]) -> Result<()> {
    let tokenizer = &session.folder.tokenizer;
    let is_cut = |query: &Query| -> Option<Result<bool>> {
        let tokens = tokenizer.count(query.text.as_ref()?).map_err(|e| in_column(query, "text", e));
        Some(tokens.map(|tokens| tokens > tokenizer.context_length()))
    };
    // The first that cannot be used is told, whichever is looked at first.
    let found: Vec<Result<bool>> = queries.par_iter().filter_map(is_cut).collect();
    let found = found.into_iter().collect::<Result<Vec<bool>>>()?;
    warn_cut(tokenizer, "queries", (found.iter().filter(|is_cut| **is_cut).count(), found.len()));
    Ok(())
}

/// What is wrong with a query's text or image, with where that stands.
fn in_column(query: &Query, column: &str, error: anyhow::Error) -> anyhow::Error {
    match query.place {
        Some(place) => error.context(format!("{place}, {column}")),
        None => error,
    }
}

/// The images of `queries` through `encode`.
///
/// # Errors
/// Of one that cannot be read, with where it stands.
fn of_images<T>(queries: &[Query], encode: impl FnOnce(&[ImageSource]) -> Result<T>) -> Result<T> {
    let images: Vec<ImageSource> = queries.iter().filter_map(|query| query.image.clone()).collect();
    encode(&images).map_err(|e| {
        let Some(bad) = e.downcast_ref::<UnreadableImage>() else { return e };
        let asks = |query: &&Query| query.place.is_some() && query.image.as_ref() == Some(&bad.image);
        let Some(query) = queries.iter().find(asks) else { return e };
        // The line is told once.
        let reason = bad.reason.strip_prefix(&format!("{}: ", bad.image)).unwrap_or(&bad.reason);
        let is_gone = reason.contains(&std::io::Error::from_raw_os_error(NO_SUCH_FILE).to_string());
        let hint = if is_gone { "; relative names start at the folder of the file of queries" } else { "" };
        in_column(query, "image", anyhow!("{reason}{hint}"))
    })
}

/// What systems say of a file that is not there: ENOENT, ERROR_FILE_NOT_FOUND.
const NO_SUCH_FILE: i32 = 2;

/// Queries that are encoded at once.
const BATCH: usize = 64;

/// The vectors of queries, embed_dim numbers each: that of a text or an image, or of both the weighted mean.
///
/// # Errors
/// An image that cannot be read, with where it stands in a file.
pub fn query_vectors(session: &Session, queries: &[Query]) -> Result<Vec<Vec<f32>>> {
    let encoder = session.encoder(BATCH.min(queries.len().max(1)))?;
    let texts: Vec<&str> = queries.iter().filter_map(|query| query.text.as_deref()).collect();
    let rows = |embeds: Tensor| anyhow::Ok(embeds.to_vec2::<f32>()?);
    let mut texts = if texts.is_empty() { Vec::new() } else { rows(encoder.texts(&texts)?)? }.into_iter();
    let encode = |images: &[ImageSource]| match images {
        [] => Ok(Vec::new()),
        images => rows(encoder.images(images)?),
    };
    let mut images = of_images(queries, encode)?.into_iter();
    let vector = |query: &Query| {
        let text = query.text.as_ref().and_then(|_| texts.next());
        let image = query.image.as_ref().and_then(|_| images.next());
        joined(text, image, query.weights).context("a query of nothing")
    };
    queries.iter().map(vector).collect()
}

/// The `k` rows of an index that fit each of `queries` best, named by what they were made from.
///
/// # Errors
/// A model of another width; an image or vectors that cannot be read; an index that has changed since it was opened.
pub fn search((index, names): (&Index, &Names), session: &Session, queries: &[Query], k: usize) -> Result<Vec<Found>> {
    check_texts(session, queries)?;
    let vectors = query_vectors(session, queries)?;
    let asked: Vec<(Side, Vec<f32>)> = queries.iter().map(|query| query.side(index)).zip(vectors).collect();
    find((index, names), &asked, k)
}

/// [`query_vectors`] for [`find_late`] in `index`: those of a text's tokens or of an image's patches, one after the
/// other.
///
/// # Errors
/// As there; a query of a text and an image together, towers without tokens or patches, vectors of another width than
/// the index's.
pub fn late_query_vectors(index: &Index, session: &Session, queries: &[Query]) -> Result<Vec<Vec<f32>>> {
    let encoder = session.encoder(BATCH.min(queries.len().max(1)))?;
    // Several vectors in a row do not tell how wide they are.
    for width in queries.iter().filter_map(|query| Some(index.gallery(query.side(index))?.width())) {
        let own = encoder.model.embed_dim();
        ensure!(width == own, "the index has embeddings of width {width}, the query ones of {own}");
    }
    let (mut tokens, mut patches) = (Vec::new(), Vec::new());
    let texts: Vec<&str> = queries.iter().filter_map(|query| query.text.as_deref()).collect();
    if !texts.is_empty() {
        encoder.texts_with_tokens(&texts, &mut |vectors| tokens.push(vectors.to_vec()))?;
    }
    of_images(queries, |images| match images {
        [] => Ok(()),
        images => encoder.images_with_patches(images, &mut |vectors| patches.push(vectors.to_vec())).map(drop),
    })?;
    let (mut tokens, mut patches) = (tokens.into_iter(), patches.into_iter());
    let vectors = |query: &Query| match (&query.text, &query.image) {
        (Some(_), None) => tokens.next(),
        (None, Some(_)) => patches.next(),
        _ => None,
    };
    queries.iter().map(vectors).map(|vectors| vectors.context("a late query is a text or an image")).collect()
}

/// [`search`] for queries that are vectors already, each with the side that is looked through.
///
/// # Errors
/// As there.
pub fn find(place: (&Index, &Names), queries: &[(Side, Vec<f32>)], k: usize) -> Result<Vec<Found>> {
    answer(place, queries, k, false)
}

/// [`find`] by MaxSim, for queries of several vectors, as [`Index::find_late`] does it.
///
/// # Errors
/// As there; an index without patches and tokens.
pub fn find_late(place: (&Index, &Names), queries: &[(Side, Vec<f32>)], k: usize) -> Result<Vec<Found>> {
    answer(place, queries, k, true)
}

fn answer((index, names): (&Index, &Names), queries: &[(Side, Vec<f32>)], k: usize, late: bool) -> Result<Vec<Found>> {
    let mut found: Vec<Option<Found>> = queries.iter().map(|_| None).collect();
    for side in [Side::Images, Side::Texts] {
        let asked: Vec<usize> = (0..queries.len()).filter(|&i| queries[i].0 == side).collect();
        if asked.is_empty() {
            continue;
        }
        let gallery = index.gallery(side).with_context(|| format!("has no {}", side.word()))?;
        let (width, gallery) = (gallery.width(), gallery.rows());
        let searched = if late { side.parts_word() } else { side.word() };
        let (count, begun) = (asked.len(), Instant::now());
        let best = if late {
            index.find_late(side, &asked.iter().map(|&i| queries[i].1.as_slice()).collect::<Vec<_>>(), k)?
        } else {
            for &i in &asked {
                let expected = queries[i].1.len();
                ensure!(width == expected, "has embeddings of width {width}, the query one of {expected}");
            }
            index.find(side, &asked.iter().flat_map(|&i| &queries[i].1).copied().collect::<Vec<f32>>(), k)?
        };
        tracing::debug!("{count} queries over {gallery} rows in {:.4} s", begun.elapsed().as_secs_f64());
        let mut seen = Seen::new();
        for (i, best) in asked.into_iter().zip(best) {
            found[i] = Some(Found { searched, gallery, hits: names.hits(index, side, best, &mut seen)? });
        }
    }
    Ok(found.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::items::{IndexContents, source};

    #[test]
    fn a_model_of_which_nothing_is_known_has_not_changed() {
        let contents = IndexContents::Files { images: Vec::new(), texts: None };
        let mut index = source(&contents, "no-such/model");
        index.model_content = Some("0".repeat(40));
        check_model(&index, "no-such/model").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let told = check_model(&index, model).unwrap_err().to_string();
        assert!(told.contains("was made by another model, no-such/model"), "{told}");
        index.model = model.into();
        let told = check_model(&index, model).unwrap_err().to_string();
        assert!(told.contains("has changed since the index was made"), "{told}");
    }
}
