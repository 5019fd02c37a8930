//! What the rows of an index are called today, by what they were made from.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::gallery::Side;
use super::identity::{Origins, RowIdentity};
use super::index::Index;
use super::items::{file_content, row_contents, short};
use super::scan::Scored;
use super::source::IndexSource;
use crate::data::{ImageSource, Row};
use crate::error::one_line;

/// A row of the index.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    /// From 1.
    pub rank: usize,
    /// Cosine; of a text and an image together, the weighted mean of both; of late interaction, MaxSim: the sum over
    /// the query's vectors.
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

/// Of rows of one side that were looked at in one search, whether their images have changed: each file is read once.
pub type Seen = HashMap<usize, bool>;

/// All that an index was made from and that is there today, by its hash: manifest and texts are read once.
pub struct Names {
    today: HashMap<String, Name>,
}

/// What a row is called.
enum Name {
    Row(Row),
    Line(String),
}

impl Name {
    fn image(&self) -> Option<ImageSource> {
        match self {
            Self::Row(row) => Some(row.image()),
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

/// What is known of one row.
enum Origin<'a> {
    /// An image file, with a digest of what it held.
    Image(&'a PathBuf, Option<&'a String>),
    /// A row or a line.
    Identity(&'a RowIdentity),
}

fn origin<'a>(source: &IndexSource, (origins, at): (&'a Origins, usize), side: Side) -> Option<Origin<'a>> {
    if source.manifest.is_none() && side == Side::Images {
        return Some(Origin::Image(origins.images.get(at)?, origins.image_contents.get(at)));
    }
    origins.rows.as_ref()?.get(at).map(Origin::Identity)
}

impl Names {
    /// Reads what `index` was made from. What cannot be read is told once: rows have numbers only then.
    pub fn read(index: &Index) -> Self {
        let source = &index.source;
        let is_told = index.origins(0).is_ok_and(|(origins, _)| origins.rows.is_some());
        if (source.manifest.is_some() || source.texts.is_some()) && !is_told {
            tracing::warn!(
                "the index does not say what its rows were made from, so they have numbers only; `reportclip embed` \
                 makes one that does"
            );
            return Self { today: HashMap::new() };
        }
        let today = names(source).unwrap_or_else(|e| {
            tracing::warn!("what the index was made from cannot be read, so no report is shown: {}", one_line(&e));
            HashMap::new()
        });
        Self { today }
    }

    /// Rows that were found, the best one first, named only by what they were made from: one whose manifest row is no
    /// longer the same is flagged, and of an index that does not know what its rows were made from, numbers are all
    /// there is.
    ///
    /// # Errors
    /// What they were made from cannot be read, or is no longer what it was when the index was opened.
    pub fn hits(&self, index: &Index, side: Side, best: Vec<Scored>, seen: &mut Seen) -> Result<Vec<Hit>> {
        let hit = |(rank, scored)| self.hit((index, side), rank + 1, scored, seen);
        best.into_iter().enumerate().map(hit).collect()
    }

    fn hit(&self, (index, side): (&Index, Side), rank: usize, scored: Scored, seen: &mut Seen) -> Result<Hit> {
        let Scored { row, score } = scored;
        let hit = Hit { rank, score, row, line: None, image: None, text: None, changed: false };
        let mut once = |look: &dyn Fn() -> bool| *seen.entry(row).or_insert_with(look);
        Ok(match origin(&index.source, index.origins(row)?, side) {
            None => hit,
            Some(Origin::Image(path, before)) => {
                let changed = once(&|| before.is_some_and(|before| *before != file_content(path)));
                Hit { image: Some(path.display().to_string()), changed, ..hit }
            }
            Some(Origin::Identity(identity)) => match self.today.get(&identity.sha256) {
                Some(name) => {
                    let changed = once(&|| !name.is_same(identity));
                    let image = name.image().map(|image| image.name());
                    Hit { line: name.line(), image, text: Some(name.text()), changed, ..hit }
                }
                None => Hit { image: identity.image.clone(), changed: true, ..hit },
            },
        })
    }

    /// The image of a hit, to show it: only where the index knows what it held, and the hit has found that it holds
    /// that today. Of a PACS there is none.
    pub fn image(&self, index: &Index, side: Side, hit: &Hit) -> Option<ImageSource> {
        if hit.changed {
            return None;
        }
        match origin(&index.source, index.origins(hit.row).ok()?, side)? {
            Origin::Image(path, before) => before.filter(|before| !before.is_empty()).map(|_| path.clone().into()),
            Origin::Identity(identity) => {
                identity.pixels.as_ref()?;
                self.today.get(&identity.sha256)?.image()
            }
        }
    }
}

/// Of equal hashes, the first name, as the manifest's first line would be read.
fn by_hash<T>(names: impl Iterator<Item = (String, T)>) -> HashMap<String, T> {
    let mut first = HashMap::new();
    for (hash, name) in names {
        first.entry(hash).or_insert(name);
    }
    first
}

/// Names of all that is there today, by hash. Rows that are there twice have one name, the first one's.
fn names(source: &IndexSource) -> Result<HashMap<String, Name>> {
    let of_row = |row: Row| (RowIdentity::of_row(&row).sha256, Name::Row(row));
    let rows = source.usable_rows()?.into_iter().map(of_row);
    let of_line = |line: String| (RowIdentity::of_line(&line).sha256, Name::Line(line));
    Ok(by_hash(rows.chain(source.lines()?.into_iter().map(of_line))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_rows_the_first_one_gives_the_name() {
        let names = [("a", 2), ("b", 3), ("a", 4), ("a", 5)].map(|(hash, line)| (hash.to_string(), line));
        let names = by_hash(names.into_iter());
        assert_eq!((names["a"], names["b"], names.len()), (2, 3, 2));
    }
}
