//! Files of queries.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};

use super::find::{Query, QueryPlace};
use super::gallery::{Gallery, Side};
use super::index::Index;
use super::npy;
use super::source::text_of_file;
use crate::data::ImageSource;
use crate::data::table::comma_records;

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

    /// Whether any has a text and an image together.
    pub fn has_both(&self) -> bool {
        match self {
            Self::Asked(asked) => asked.iter().any(|query| query.text.is_some() && query.image.is_some()),
            Self::Vectors(_) => false,
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
            let text = text_of_file(path)?;
            let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty());
            let query = |(number, (line, text)): (usize, (u64, &str))| {
                let place = Some(QueryPlace { number, line });
                Query { weights, place, ..Query::of_text(text) }
            };
            (1..).zip(lines).map(query).collect()
        }
    };
    ensure!(!queries.is_empty(), "holds no queries");
    Ok(Queries::Asked(queries))
}

/// What is broken is refused: queries that nobody asked would be answered all the same.
fn of_table(path: &Path, weights: (f32, f32)) -> Result<Vec<Query>> {
    let text = text_of_file(path)?;
    let (header, records) = comma_records(&text)?;
    let mut columns = [None; 2];
    for (column, name) in columns.iter_mut().zip(["text", "image"]) {
        let mut called_so = (0..header.len()).filter(|&i| header[i].trim() == name);
        *column = called_so.next();
        ensure!(called_so.next().is_none(), "line 1: there are two columns {name:?}; rename one");
    }
    ensure!(columns.iter().any(Option::is_some), "line 1: has no column text or image; name one of them so");
    let image_of = ImageSource::of_list(path);
    let mut queries = Vec::new();
    for (line, record) in records {
        let cell = |column: Option<usize>| record.get(column?).map(str::trim).filter(|cell| !cell.is_empty());
        let [text, image] = columns.map(cell);
        let place = QueryPlace { number: queries.len() + 1, line };
        ensure!(text.is_some() || image.is_some(), "{place} has neither text nor image, the columns that are read");
        let (text, image) = (text.map(str::to_string), image.map(|name| image_of(line, name)));
        queries.push(Query { text, image, weights, place: Some(place) });
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::fs::Access;

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
            let matrix = Tensor::from_vec(numbers, (rows, 2), &Device::Cpu).unwrap();
            npy::write(&path, &matrix, Access::Usual).unwrap();
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
        // Numbers count queries, lines those of the file.
        let places = |queries: &[Query]| queries.iter().map(|q| q.place.unwrap().to_string()).collect::<Vec<_>>();
        assert_eq!(places(&lines), ["query 1 (line 1)", "query 2 (line 3)"]);
        assert_eq!(places(&rows), ["query 1 (line 2)", "query 2 (line 3)", "query 3 (line 4)"]);
        for (name, text, why) in [
            ("a.txt", "\n \n", "holds no queries"),
            ("a.csv", "image,text\n", "holds no queries"),
            ("a.csv", "image,text\n,\n", "query 1 (line 2) has neither text nor image"),
            ("a.csv", "file,report\na.png,x\n", "line 1: has no column text or image"),
            ("a.csv", "text,text\na,b\n", "line 1: there are two columns \"text\"; rename one"),
            ("a.csv", "text\n\"abc\n", "line 2: a quote opens here and is never closed"),
            ("a.csv", "text\n\"zxqv\n\"def\n", "line 2: a quote opens here and is followed by text on line 3"),
            ("a.csv", "text,image\r\n\r\na,\r\nzxqv\r\n", "line 4: 1 columns where the header has 2"),
            ("a.csv", "text,image\nzxqv\n", "line 2: 1 columns where the header has 2; is a quote missing?"),
            ("a.csv", "text,image\nzxqv,a.png,b\n", "line 2: 3 columns where the header has 2"),
            ("a.npy", "x", "no .npy file"),
        ] {
            let told = format!("{:#}", read(name, text).unwrap_err());
            assert!(told.contains(why) && !told.contains("zxqv"), "{told}");
        }
        // An image is called by its line, whatever lines end in and however many are blank or within quotes.
        let crlf = read("a.csv", "image,text\r\n\r\na.png,\"1\r\n2\"\r\nb.png,\r\n").unwrap();
        for (row, line) in [(&rows[2], 4), (&crlf[0], 3), (&crlf[1], 5)] {
            let told = row.image.as_ref().unwrap().bytes().unwrap_err().to_string();
            assert!(told.ends_with(&format!("a.csv:{line}")), "{told}");
        }
        // The byte-order mark is no part of the first one.
        for (name, text) in [("a.txt", "\u{feff}nodule\n"), ("a.csv", "\u{feff}\"text\"\nnodule\n")] {
            assert_eq!(read(name, text).unwrap()[0].text.as_deref(), Some("nodule"), "{name}");
        }
        // A quote within a field is a character of it.
        assert_eq!(read("a.csv", "text\n5\" tube\n").unwrap()[0].text.as_deref(), Some("5\" tube"));
    }
}
