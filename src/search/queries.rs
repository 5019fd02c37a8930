//! Files of queries.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::find::{Query, QueryPlace};
use super::gallery::{Gallery, Side};
use super::index::Index;
use super::npy;
use super::source::{MOST_TEXT, text_of_file};
use crate::data::ImageSource;
use crate::data::table::query_cells;

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

/// Tables that are read, by how their files' names end.
const TABLES: [&str; 5] = ["csv", "tsv", "jsonl", "ndjson", "json"];
/// What is no list of texts either.
const OTHER_TABLES: [&str; 12] =
    ["parquet", "arrow", "feather", "xlsx", "xls", "ods", "npz", "tar", "gz", "zip", "safetensors", "pt"];

/// Reads a file: vectors from `.npy`, texts and images from the columns `text` and `image` of a table (by its ending),
/// whose images start at its folder, else a text a line. Of a text and an image together, `weights` says how much each
/// counts.
///
/// # Errors
/// It cannot be read, or asks for nothing; a vector that is zero or holds what is no finite number.
pub fn read_queries(path: &Path, weights: (f32, f32)) -> Result<Queries> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_lowercase();
    let queries = match ending.as_str() {
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
        table if TABLES.contains(&table) => of_table(path, weights)?,
        other if OTHER_TABLES.contains(&other) => bail!(
            "is called .{other}; allowed are tables as .csv, .tsv or .jsonl, vectors as .npy, and a text a line under \
             another name, such as .txt"
        ),
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
    let bytes = std::fs::metadata(path)?.len();
    ensure!(bytes <= MOST_TEXT, "has {bytes} bytes; allowed are {MOST_TEXT}");
    let image_of = ImageSource::of_list(path);
    let mut queries = Vec::new();
    for (line, [text, image]) in query_cells(path, ["text", "image"])? {
        let place = QueryPlace { number: queries.len() + 1, line };
        ensure!(text.is_some() || image.is_some(), "{place} has neither text nor image, the columns that are read");
        let image = image.map(|name| image_of(line, &name));
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
            (
                "a.csv",
                "file,report\na.png,x\n",
                "line 1, cut at commas: has no column text or image; name one of them so",
            ),
            ("a.csv", "text,text\na,b\n", "line 1, cut at commas: there are two columns \"text\"; rename one"),
            ("a.csv", "text\n\"abc\n", "line 2: a quote opens here and is never closed"),
            ("a.csv", "text\n\"zxqv\n\"def\n", "line 2: a quote opens here and is followed by text on line 3"),
            ("a.csv", "text,image\r\n\r\na,\r\nzxqv\r\n", "line 4: 1 columns where the header has 2"),
            ("a.csv", "text,image\nzxqv\n", "line 2: 1 columns where the header has 2; is a quote missing?"),
            ("a.csv", "text,image\nzxqv,a.png,b\n", "line 2: 3 columns where the header has 2"),
            ("a.csv", "Text,zxqv\na,b\n", "there is no column \"text\"; did you mean \"Text\"?"),
            ("a.csv", "text;Image\na;b\n", "line 1, cut at semicolons: there is no column \"image\"; did you mean"),
            ("a.csv", "texts\na\n", "has no column text or image; did you mean \"texts\"?"),
            ("a.jsonl", "{\"text\": \"a\"}\n{\"Text\": \"zxqv\"}\n", "line 2: there is no column \"text\"; did you"),
            ("a.jsonl", "{\"text\": [\"zxqv\"]}\n", "line 1: \"text\" is neither text nor a number"),
            ("a.json", "[\"zxqv\"]\n", "line 1: not a JSON object (column "),
            ("a.jsonl", "{\"text\": \" \"}\n", "query 1 (line 1) has neither text nor image"),
            ("a.tsv", " \n", "is empty; a file of queries names a text, an image or both in each row"),
            ("a.xlsx", "text\n", "is called .xlsx; allowed are tables as .csv, .tsv or .jsonl, vectors as .npy"),
            ("a.Parquet", "text\n", "is called .parquet; allowed are"),
            ("a.npy", "x", "no .npy file"),
        ] {
            let told = format!("{:#}", read(name, text).unwrap_err());
            assert!(told.contains(why) && !told.contains("zxqv"), "{told}");
        }
        // Other separators and objects say the same, whatever the case of the file's ending.
        let asked = |queries: Vec<Query>| {
            queries.into_iter().map(|q| (q.text.clone(), q.image.is_some(), q.place)).collect::<Vec<_>>()
        };
        let expected = asked(read("a.csv", "text,image\n\"left, large\",a.png\nnodule,\n").unwrap());
        for (name, text) in [
            ("a.tsv", "text\timage\nleft, large\ta.png\nnodule\t\n"),
            ("a.CSV", "text;image\nleft, large;a.png\nnodule;\n"),
            ("a.jsonl", "\n{\"text\": \"left, large\", \"image\": \"a.png\"}\n{\"image\": null, \"text\": \"nodule\"}"),
        ] {
            let found = asked(read(name, text).unwrap());
            assert_eq!(found.len(), 2);
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!((&found.0, found.1), (&expected.0, expected.1), "{name}");
                assert_eq!(found.2.unwrap().number, expected.2.unwrap().number, "{name}");
            }
        }
        // What is not UTF-8 is told by its line.
        for (name, text) in [("a.txt", &b"a\n\xe9panchement \xe0\n"[..]), ("a.csv", b"text\n\xe9panchement \xe0\n")] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(name), text).unwrap();
            let told = format!("{:#}", read_queries(&dir.path().join(name), (0.5, 0.5)).err().unwrap());
            assert!(told.starts_with("line 2 is not UTF-8; it seems to be Latin-1 or another old encoding"), "{told}");
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
