//! Files of queries.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use super::find::Query;
use super::gallery::{Gallery, Side};
use super::index::Index;
use super::npy;
use super::source::MOST_TEXT;
use crate::data::prepare::sheet;
use crate::fs::read_up_to;

/// What is asked for, in order.
pub enum Queries {
    /// Texts and images, which a model turns into vectors.
    Asked(Vec<Query>),
    /// Vectors that were made before.
    Vectors(Gallery),
}

impl Queries {
    /// How many.
    #[expect(clippy::len_without_is_empty, reason = "a file without queries is refused")]
    pub fn len(&self) -> usize {
        match self {
            Self::Asked(asked) => asked.len(),
            Self::Vectors(vectors) => vectors.rows(),
        }
    }

    /// Where `index` is looked through for each: for vectors, among the images where it has any.
    pub fn sides(&self, index: &Index) -> Vec<Side> {
        match self {
            Self::Asked(asked) => asked.iter().map(|query| query.side(index)).collect(),
            Self::Vectors(vectors) => {
                let side = if index.gallery(Side::Images).is_some() { Side::Images } else { Side::Texts };
                vec![side; vectors.rows()]
            }
        }
    }

    /// The vectors of a range, where they are vectors, L2-normalised.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn vectors(&self, range: Range<usize>) -> Result<Vec<Vec<f32>>> {
        match self {
            Self::Asked(_) => Err(anyhow!("a model makes their vectors")),
            Self::Vectors(vectors) => {
                let rows: Vec<usize> = range.collect();
                let unit = |numbers: &[f32]| {
                    let length = length(numbers)?;
                    Ok(numbers.iter().map(|x| (f64::from(*x) / length) as f32).collect())
                };
                vectors.vectors(&rows)?.chunks(vectors.width()).map(unit).collect()
            }
        }
    }
}

/// The length of a vector that has a direction.
fn length(numbers: &[f32]) -> Result<f64> {
    let odd = numbers.iter().find(|x| !x.is_finite());
    ensure!(odd.is_none(), "holds {}; allowed are finite numbers", odd.unwrap_or(&f32::NAN));
    let length = numbers.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    ensure!(length > 0.0, "is all zeros, which has no direction");
    Ok(length)
}

/// Reads a file: vectors from `.npy`, texts and images from the columns `text` and `image` of a `.csv`, whose images
/// start at its folder, else a text a line. Of a text and an image together, `weights` says how much each counts.
///
/// # Errors
/// It cannot be read, or asks for nothing; a vector that is zero or holds what is no finite number.
pub fn read_queries(path: &Path, weights: (f32, f32)) -> Result<Queries> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let queries = match ending {
        "npy" => {
            let (rows, width, vectors) = npy::rows(path)?;
            ensure!(rows > 0, "holds no queries");
            let vectors = Gallery::of([(rows, width, vectors)])?.context("holds no queries")?;
            for block in vectors.blocks() {
                vectors.with_block(block, |numbers| {
                    (block.first + 1..)
                        .zip(numbers.chunks(width))
                        .try_for_each(|(row, numbers)| length(numbers).map(drop).with_context(|| format!("row {row}")))
                })?;
            }
            return Ok(Queries::Vectors(vectors));
        }
        "csv" => of_table(path, weights)?,
        _ => {
            let text = String::from_utf8(read_up_to(path, MOST_TEXT)?)
                .map_err(|e| anyhow!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to()))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.map(|line| Query { weights, ..Query::of_text(line) }).collect()
        }
    };
    ensure!(!queries.is_empty(), "holds no queries");
    Ok(Queries::Asked(queries))
}

fn of_table(path: &Path, weights: (f32, f32)) -> Result<Vec<Query>> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut queries = Vec::new();
    sheet::each(path, ["text?", "image?"], |[text, image]| {
        let said = |field: &str| (!field.is_empty()).then(|| field.to_string());
        let image = said(image).map(|name| folder.join(name).into());
        let query = Query { text: said(text), image, weights };
        let number = queries.len() + 1;
        ensure!(query.text.is_some() || query.image.is_some(), "query {number} has neither text nor image");
        queries.push(query);
        Ok(())
    })?;
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<Query>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        match read_queries(&path, (0.7, 0.3))? {
            Queries::Asked(asked) => Ok(asked),
            Queries::Vectors(_) => panic!("{name} holds vectors"),
        }
    }

    #[test]
    fn vectors_are_made_as_long_as_one_and_odd_ones_are_told_by_their_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.npy");
        let read = |numbers: Vec<f32>| {
            let rows = numbers.len() / 2;
            npy::write(&path, &Tensor::from_vec(numbers, (rows, 2), &Device::Cpu).unwrap()).unwrap();
            read_queries(&path, (0.5, 0.5))
        };
        let units = read(vec![3.0, 4.0, 0.0, -1e-30, 1.0, 0.0]).unwrap().vectors(0..3).unwrap();
        assert_eq!(units, [[0.6, 0.8], [0.0, -1.0], [1.0, 0.0]]);
        for (odd, why) in [(f32::NAN, "holds NaN"), (f32::INFINITY, "holds inf"), (0.0, "is all zeros")] {
            // In the second block too.
            for row in [1, 1500] {
                let mut numbers = vec![1.0; 2 * 1600];
                numbers[2 * row..][..2].fill(odd);
                let told = format!("{:#}", read(numbers).err().unwrap());
                assert!(told.starts_with(&format!("row {}: {why}", row + 1)), "{told}");
            }
        }
    }

    #[test]
    fn lines_and_columns_are_queries() {
        let lines = read("a.txt", "effusion\n\n  no effusion \n").unwrap();
        let texts: Vec<&str> = lines.iter().filter_map(|query| query.text.as_deref()).collect();
        assert_eq!(texts, ["effusion", "no effusion"]);
        let rows = read("a.csv", "image,text\na.png,\"left, large\"\n,nodule\nb.png,\n").unwrap();
        let has: Vec<(bool, bool)> = rows.iter().map(|q| (q.text.is_some(), q.image.is_some())).collect();
        assert_eq!(has, [(true, true), (true, false), (false, true)]);
        assert_eq!((rows[0].text.as_deref(), rows[0].weights), (Some("left, large"), (0.7, 0.3)));
        for (name, text, why) in [
            ("a.txt", "\n \n", "holds no queries"),
            ("a.csv", "image,text\n", "holds no queries"),
            ("a.csv", "image,text\n,\n", "query 1 has neither text nor image"),
            ("a.csv", "file,report\na.png,x\n", "query 1 has neither"),
            ("a.npy", "x", "no .npy file"),
        ] {
            let told = format!("{:#}", read(name, text).unwrap_err());
            assert!(told.contains(why), "{told}");
        }
    }
}
