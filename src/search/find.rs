//! Finding: the rows of an index that fit a text or an image best, named by what they were made from.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::Serialize;

use super::build::{file_content, row_contents, short};
use super::identity::RowIdentity;
use super::index::{Index, IndexSource};
use crate::data::Row;
use crate::error::one_line;
use crate::session::{Session, model_content};

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub enum Query<'a> {
    /// Among the images, or among the texts where the index has no images.
    Text(&'a str),
    /// Among the texts, or among the images where the index has no texts.
    Image(&'a Path),
}

/// A row of the index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// From 1.
    pub rank: usize,
    /// Cosine.
    pub score: f32,
    /// Row of the index, from 0.
    pub row: usize,
    /// Line of the manifest where it stands today; absent where that is no longer to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Its image; as the manifest named it then where that row is no longer to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its report or line; absent where that is no longer to be found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether what it was made from is no longer to be found as it was: changed, gone or unreadable.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub changed: bool,
}

/// What a search came to.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// `image_embeds` or `text_embeds`.
    pub searched: &'static str,
    /// How many rows those have.
    pub gallery: usize,
    /// The best, the first one first.
    pub hits: Vec<Hit>,
}

/// Makes sure that `model` is still what made `index`; `named` models are only warned of. A repository of the hub is
/// known once it is opened.
///
/// # Errors
/// The index's own model holds something else by now, so that its embeddings say nothing of the index's.
pub fn check_model(index: &IndexSource, model: &str, named: bool) -> Result<()> {
    let same = match (&index.model_content, model_content(model)?) {
        (Some(before), Some(now)) => *before == now,
        _ => true,
    };
    if named && !same {
        tracing::warn!("{model} is not what made the index; similarities across models say nothing");
    }
    ensure!(
        same || named,
        "model {model} has changed since the index was made; make a new index with `reportclip embed`"
    );
    Ok(())
}

/// The `k` rows of `index` that fit `query` best. A row is named only by what it was made from: one whose manifest row
/// is no longer the same is flagged, and of an index that does not know what its rows were made from, numbers are all
/// there is.
///
/// # Errors
/// A model of another width; an image that cannot be read.
pub fn search(index: &Index, session: &Session, query: Query, k: usize) -> Result<Found> {
    let (images, texts) = (&index.image_embeds, &index.text_embeds);
    let (images, texts) = (images.as_ref().map(|t| ("image_embeds", t)), texts.as_ref().map(|t| ("text_embeds", t)));
    let encoder = session.encoder(1)?;
    let (gallery, query) = match query {
        Query::Text(text) => (images.or(texts), encoder.texts(&[text])?),
        Query::Image(path) => (texts.or(images), encoder.images(&[path.to_path_buf().into()])?),
    };
    let Some((searched, gallery)) = gallery else { anyhow::bail!("the index has no embeddings") };
    let (width, expected) = (gallery.dim(1)?, query.dim(1)?);
    ensure!(width == expected, "has embeddings of width {width}, the model {expected}");
    let best = best(gallery, &query, k)?;
    let names = Names::read(&index.source, searched);
    let hit = |(i, (row, score)): (usize, (usize, f32))| {
        names.hit(Hit { rank: i + 1, score, row, line: None, image: None, text: None, changed: false })
    };
    Ok(Found { searched, gallery: gallery.dim(0)?, hits: best.into_iter().enumerate().map(hit).collect() })
}

/// The rows with the highest cosines, and these.
fn best(gallery: &Tensor, query: &Tensor, k: usize) -> Result<Vec<(usize, f32)>> {
    let scores: Vec<f32> = gallery.matmul(&query.t()?)?.flatten_all()?.to_vec1()?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    Ok(order.into_iter().take(k).map(|row| (row, scores[row])).collect())
}

/// What the rows of an index are called.
enum Names<'a> {
    /// They are these files, with a digest of each.
    Images(&'a IndexSource),
    /// What each was made from, and what of that is still to be found, by its hash.
    Identities(&'a [RowIdentity], HashMap<String, Name>),
    /// Nothing is known of them.
    Numbers,
}

/// What a row is called.
enum Name {
    Row(Row),
    Line(String),
}

impl Name {
    fn image(&self) -> Option<String> {
        match self {
            Self::Row(row) => Some(row.image().name()),
            Self::Line(_) => None,
        }
    }

    fn line(&self) -> Option<u64> {
        match self {
            Self::Row(row) => Some(row.line),
            Self::Line(_) => None,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Row(row) => row.report().to_string(),
            Self::Line(line) => line.clone(),
        }
    }

    /// Whether the image still holds what it did when `identity` was written.
    fn is_same(&self, identity: &RowIdentity) -> bool {
        match (self, &identity.pixels) {
            (Self::Row(row), Some(before)) => row_contents(&[row]).iter().all(|now| short(now) == *before),
            _ => true,
        }
    }
}

impl<'a> Names<'a> {
    fn read(source: &'a IndexSource, searched: &str) -> Self {
        if source.manifest.is_none() && searched == "image_embeds" {
            return Self::Images(source);
        }
        let Some(identities) = &source.rows else {
            tracing::warn!(
                "the index does not say what its rows were made from, so they have numbers only; `reportclip embed` \
                 makes one that does"
            );
            return Self::Numbers;
        };
        let found = names(source).unwrap_or_else(|e| {
            tracing::warn!("what the index was made from cannot be read, so no report is shown: {}", one_line(&e));
            HashMap::new()
        });
        Self::Identities(identities, found)
    }

    fn hit(&self, hit: Hit) -> Hit {
        match self {
            Self::Numbers => hit,
            Self::Images(source) => {
                let Some(path) = source.images.get(hit.row) else { return hit };
                let changed = source.image_contents.get(hit.row).is_some_and(|before| *before != file_content(path));
                Hit { image: Some(path.display().to_string()), changed, ..hit }
            }
            Self::Identities(identities, found) => {
                let Some(identity) = identities.get(hit.row) else { return hit };
                match found.get(&identity.sha256) {
                    Some(name) => {
                        let changed = !name.is_same(identity);
                        Hit { line: name.line(), image: name.image(), text: Some(name.text()), changed, ..hit }
                    }
                    None => Hit { image: identity.image.clone(), changed: true, ..hit },
                }
            }
        }
    }
}

/// Names of all that is there today, by hash. Rows that are there twice have one name.
fn names(source: &IndexSource) -> Result<HashMap<String, Name>> {
    let of_row = |row: &Row| (RowIdentity::of_row(row).sha256, Name::Row(row.clone()));
    let mut names: HashMap<String, Name> = source.usable_rows()?.iter().map(of_row).collect();
    let of_line = |line: String| (RowIdentity::of_line(&line).sha256, Name::Line(line));
    names.extend(source.lines()?.into_iter().map(of_line));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::IndexContents;
    use crate::search::build::source;

    #[test]
    fn a_model_of_which_nothing_is_known_has_not_changed() {
        let contents = IndexContents::Files { images: Vec::new(), texts: None };
        let mut index = source(&contents, "no-such/model");
        index.model_content = Some("0".repeat(40));
        check_model(&index, "no-such/model", false).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        let told = check_model(&index, dir.path().to_str().unwrap(), false).unwrap_err().to_string();
        assert!(told.contains("has changed since the index was made"), "{told}");
    }
}
