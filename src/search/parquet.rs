//! Embeddings as Parquet: a list of float32 a row, beside what the row was made from.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::identity::RowIdentity;
use super::stamp::Stamp;
use crate::error::caught;
use crate::fs::{Access, open_plain};

/// Rows of a group: a block of a search is one.
const GROUP: usize = 1024;

/// Rows to be written.
pub(super) struct Rows<'a> {
    /// Number of the first one in the index.
    pub first: usize,
    /// What each was made from, as far as that is told.
    pub identities: Vec<RowIdentity>,
    /// Line of the manifest of each, if they are of one.
    pub lines: Vec<u64>,
    /// Columns of vectors; those of a short one are null at the end.
    pub vectors: Vec<(&'static str, &'a Tensor)>,
}

/// Writes rows with their vectors, if any.
///
/// # Errors
/// They cannot be written; an old file is untouched then.
pub(super) fn write(path: &Path, rows: &Rows, access: Access) -> Result<()> {
    let mut matrices = Vec::new();
    for (_, tensor) in &rows.vectors {
        matrices.push((tensor.dim(1)?, tensor.flatten_all()?.to_vec1::<f32>()?));
    }
    let of_vectors = matrices.iter().map(|(width, numbers)| numbers.len() / width).max().unwrap_or(0);
    let count = rows.identities.len().max(rows.lines.len()).max(of_vectors);
    let lists = rows.vectors.iter().map(|(name, _)| {
        format!("optional group {name} (LIST) {{ repeated group list {{ required float element; }} }} ")
    });
    let schema = format!(
        "message embeddings {{ required int64 row; optional int64 line; optional binary image_path (UTF8); optional \
         binary sha256 (UTF8); optional binary image_sha256 (UTF8); {}}}",
        lists.collect::<String>()
    );
    let schema = Arc::new(parse_message_type(&schema)?);
    // Vectors do not repeat, and their least and largest numbers say nothing.
    let properties = Arc::new(WriterProperties::builder().set_dictionary_enabled(false).build());
    access.replace_with(path, |path| {
        let mut writer = SerializedFileWriter::new(File::create(path)?, schema, properties)?;
        for start in (0..count).step_by(GROUP) {
            let mut group = writer.next_row_group()?;
            let range = start..count.min(start + GROUP);
            write_ids(&mut group, rows, range.clone())?;
            for (width, numbers) in &matrices {
                write_lists(&mut group, numbers, *width, range.clone())?;
            }
            group.close()?;
        }
        writer.close()?;
        Ok(())
    })
}

fn write_ids<W: Write + Send>(group: &mut SerializedRowGroupWriter<W>, rows: &Rows, range: Range<usize>) -> Result<()> {
    let numbers: Vec<i64> = range.clone().map(|i| (rows.first + i) as i64).collect();
    let mut column = group.next_column()?.context("no column")?;
    column.typed::<Int64Type>().write_batch(&numbers, None, None)?;
    column.close()?;
    let lines: Vec<Option<i64>> = range.clone().map(|i| rows.lines.get(i).map(|line| *line as i64)).collect();
    let mut column = group.next_column()?.context("no column")?;
    column.typed::<Int64Type>().write_batch(&there(&lines), Some(&levels(&lines)), None)?;
    column.close()?;
    let texts: [fn(&RowIdentity) -> Option<&str>; 3] = [
        |row| row.image.as_deref(),
        |row| Some(&row.sha256).filter(|hash| !hash.is_empty()).map(String::as_str),
        |row| row.pixels.as_deref(),
    ];
    for text in texts {
        let texts: Vec<Option<ByteArray>> =
            range.clone().map(|i| rows.identities.get(i).and_then(text).map(ByteArray::from)).collect();
        let mut column = group.next_column()?.context("no column")?;
        column.typed::<ByteArrayType>().write_batch(&there(&texts), Some(&levels(&texts)), None)?;
        column.close()?;
    }
    Ok(())
}

fn there<T: Clone>(values: &[Option<T>]) -> Vec<T> {
    values.iter().flatten().cloned().collect()
}

fn levels<T>(values: &[Option<T>]) -> Vec<i16> {
    values.iter().map(|value| i16::from(value.is_some())).collect()
}

fn write_lists<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<W>,
    numbers: &[f32],
    width: usize,
    range: Range<usize>,
) -> Result<()> {
    let all = numbers.len() / width;
    let (from, to) = (range.start.min(all), range.end.min(all));
    let nulls = range.len() - (to - from);
    // 2: a number is there; 0: there is no list. A list begins where the other level is 0.
    let is_there = std::iter::repeat_n(2, (to - from) * width).chain(std::iter::repeat_n(0, nulls));
    let goes_on = (0..(to - from) * width).map(|i| i16::from(i % width > 0)).chain(std::iter::repeat_n(0, nulls));
    let (is_there, goes_on): (Vec<i16>, Vec<i16>) = (is_there.collect(), goes_on.collect());
    let mut column = group.next_column()?.context("no column")?;
    column.typed::<FloatType>().write_batch(&numbers[from * width..to * width], Some(&is_there), Some(&goes_on))?;
    Ok(column.close()?)
}

/// How many rows a file has.
///
/// # Errors
/// It is no Parquet file, or broken.
pub(super) fn rows(path: &Path) -> Result<usize> {
    caught(|| {
        let reader = SerializedFileReader::new(open_plain(path)?)?;
        Ok(usize::try_from(reader.metadata().file_metadata().num_rows())?)
    })
}

/// A column of vectors in a file that [`write`] wrote.
#[derive(Clone, Debug)]
pub(super) struct VectorColumn {
    path: PathBuf,
    column: usize,
    stamp: Stamp,
}

impl VectorColumn {
    /// The column and the width of its vectors; `count`: how many rows have one.
    ///
    /// # Errors
    /// Something else wrote the file, or it is broken.
    pub fn open(path: &Path, name: &str, count: usize) -> Result<(Self, usize)> {
        let (column, values, stamp) = caught(|| {
            let file = open_plain(path)?;
            let stamp = Stamp::of(&file)?;
            let reader = SerializedFileReader::new(file)?;
            let columns = reader.metadata().file_metadata().schema_descr().columns().to_vec();
            let is_it = |path: &str| path == format!("{name}.list.element");
            let column = columns.iter().position(|c| is_it(&c.path().string()));
            let column = column.with_context(|| format!("there is no column {name} of lists"))?;
            let rows = reader.metadata().row_groups().iter().map(|group| group.num_rows());
            let whole = rows.clone().rev().skip(1).all(|rows| rows == GROUP as i64);
            ensure!(whole && rows.sum::<i64>() >= count as i64, "its groups are not as `reportclip embed` writes them");
            let values: i64 =
                reader.metadata().row_groups().iter().map(|group| group.column(column).num_values()).sum();
            let nulls = reader.metadata().file_metadata().num_rows() - count as i64;
            Ok((column, values - nulls, stamp))
        })?;
        let width = usize::try_from(values)? / count.max(1);
        ensure!(width > 0 && width * count == values as usize, "its lists have several lengths");
        Ok((Self { path: path.to_path_buf(), column, stamp }, width))
    }

    /// The numbers of some rows.
    ///
    /// # Errors
    /// They cannot be read, or are not of this width.
    pub fn numbers(&self, rows: Range<usize>, width: usize) -> Result<Vec<f32>> {
        let read = || {
            let file = File::open(&self.path)?;
            self.stamp.check(&file)?;
            let reader = SerializedFileReader::new(file)?;
            let mut numbers = Vec::new();
            for group in rows.start / GROUP..rows.end.div_ceil(GROUP) {
                let ColumnReader::FloatColumnReader(mut column) =
                    reader.get_row_group(group)?.get_column_reader(self.column)?
                else {
                    anyhow::bail!("is no column of float32");
                };
                let (mut is_there, mut goes_on) = (Vec::new(), Vec::new());
                let before = numbers.len();
                column.read_records(GROUP, Some(&mut is_there), Some(&mut goes_on), &mut numbers)?;
                let first = group * GROUP;
                let wanted = rows.end.min(first + GROUP) - first;
                let starts = goes_on.iter().step_by(width).take(wanted).all(|level| *level == 0);
                ensure!(starts && numbers.len() - before >= wanted * width, "its lists are not of {width} numbers");
                numbers.truncate(before + wanted * width);
                numbers.drain(before..before + rows.start.saturating_sub(first) * width);
            }
            Ok(numbers)
        };
        caught(read).with_context(|| self.path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn lists_come_back_by_rows_and_what_is_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.parquet");
        let matrix = |rows: usize| {
            let numbers: Vec<f32> = (0..rows * 3).map(|i| i as f32 / 7.0).collect();
            (numbers.clone(), Tensor::from_vec(numbers, (rows, 3), &Device::Cpu).unwrap())
        };
        // One side is shorter.
        let ((images, of_images), (texts, of_texts)) = (matrix(2500), matrix(1100));
        let vectors = vec![("image_embedding", &of_images), ("text_embedding", &of_texts)];
        let identities = vec![RowIdentity { image: None, pixels: Some("ab".into()), sha256: "cd".into() }; 2000];
        write(&path, &Rows { first: 10, identities, lines: vec![2; 2500], vectors }, Access::Usual).unwrap();
        for (name, count, all) in [("image_embedding", 2500, &images), ("text_embedding", 1100, &texts)] {
            let (column, width) = VectorColumn::open(&path, name, count).unwrap();
            assert_eq!(width, 3);
            for rows in [0..count, 0..1, 1023..1025, 1024..1100, count - 1..count] {
                assert_eq!(column.numbers(rows.clone(), 3).unwrap(), all[rows.start * 3..rows.end * 3], "{rows:?}");
            }
            assert!(column.numbers(0..5, 2).is_err(), "another width");
            assert!(VectorColumn::open(&path, name, 2501).is_err(), "more rows than there are");
        }
        assert!(VectorColumn::open(&path, "other", 5).is_err());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        assert!(VectorColumn::open(&path, "image_embedding", 2500).is_err());
    }
}
