//! Parquet files as Hugging Face `datasets` writes them: an image is a struct of bytes and path.
//!
//! Texts are read once when the file is opened; an image is read where it lies, a page at a time.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use serde_json::Value;

use super::manifest::{Columns, Take, extra_field, filled, missing_column, names};
use super::row::{Field, Fields, NAMED};

/// Rows decoded at once when texts are read.
const BATCH: usize = 1024;

/// An open Parquet file.
#[derive(Clone, Debug)]
pub(super) struct ParquetImages {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    /// First row of each row group, and the number of all rows.
    starts: Vec<u64>,
    image_column: String,
    /// Leaf that holds the bytes of images; `None` where the column holds paths.
    bytes_leaf: Option<usize>,
}

impl ParquetImages {
    /// Whether images are in the file, and not beside it.
    pub fn holds_bytes(&self) -> bool {
        self.bytes_leaf.is_some()
    }

    /// Bytes of the image of row number `line`, from 1.
    pub fn image(&self, line: u64) -> Result<Vec<u8>> {
        let leaf = self.bytes_leaf.context("holds no images")?;
        let row = line - 1;
        let group = self.starts.partition_point(|&start| start <= row) - 1;
        let within = (row - self.starts[group]) as usize;
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        // A file of its own each time: clones would share one position between threads.
        let file = File::open(&self.path)?;
        let mut reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(ProjectionMask::leaves(schema, [leaf]))
            .with_row_selection(RowSelection::from(vec![RowSelector::skip(within), RowSelector::select(1)]))
            .with_batch_size(1)
            .build()?;
        let batch = reader.next().context("the row is missing")??;
        let mut column = batch.column(0).clone();
        while let Some(inner) = column.clone().as_struct_opt() {
            column = inner.column(0).clone();
        }
        let bytes = bytes_of(&column, 0).context("the row has no image")?;
        Ok(bytes.to_vec())
    }
}

fn bytes_of(column: &ArrayRef, row: usize) -> Option<&[u8]> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Binary => Some(column.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(column.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(column.as_binary_view().value(row)),
        _ => None,
    }
}

/// Opens a file and finds its image column.
///
/// # Errors
/// Not Parquet, truncated, or without the columns.
pub(super) fn open(path: &Path, columns: &Columns) -> Result<ParquetImages> {
    let file = File::open(path)?;
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
        .context("cannot be read as Parquet; is it truncated, or a Git LFS pointer?")?;
    let schema = metadata.schema().clone();
    let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    for required in [&columns.image, &columns.report] {
        ensure!(known.contains(&required.as_str()), "{}", missing_column(required, &known));
    }
    let leaf_named = |parts: &[&str]| {
        let leaves = metadata.metadata().file_metadata().schema_descr().columns().iter();
        leaves.enumerate().find(|(_, l)| l.path().parts() == parts).map(|(i, _)| i)
    };
    let image = columns.image.as_str();
    let bytes_leaf = match schema.field_with_name(image)?.data_type() {
        DataType::Struct(_) => Some(leaf_named(&[image, "bytes"]).with_context(|| {
            format!("column {image:?} is a struct without bytes; allowed is the image of Hugging Face datasets")
        })?),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => leaf_named(&[image]),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => None,
        other => bail!("column {image:?} is {other}; allowed are images (bytes) and paths (text)"),
    };
    let mut starts = vec![0];
    for group in metadata.metadata().row_groups() {
        let rows = u64::try_from(group.num_rows()).context("a row group has fewer than no rows")?;
        starts.push(starts[starts.len() - 1] + rows);
    }
    ensure!(starts[starts.len() - 1] > 0, "has no rows");
    Ok(ParquetImages { path: path.to_path_buf(), metadata, starts, image_column: columns.image.clone(), bytes_leaf })
}

/// Hands the texts of all rows to `take`.
pub(super) fn read(images: &ParquetImages, columns: &Columns, take: &mut Take) -> Result<()> {
    let schema = images.metadata.schema().clone();
    let all = || names(columns).into_iter().chain(columns.extra.iter().map(String::as_str));
    let wanted = all().filter(|n| *n != images.image_column && schema.column_with_name(n).is_some());
    let mut leaves: Vec<String> = wanted.map(str::to_string).collect();
    // The name of an image, which stands beside its bytes, is all that is read of it.
    let image = match images.bytes_leaf {
        None => images.image_column.clone(),
        Some(_) => format!("{}.path", images.image_column),
    };
    leaves.push(image);
    let descriptor = images.metadata.metadata().file_metadata().schema_descr();
    let mask = ProjectionMask::columns(descriptor, leaves.iter().map(String::as_str));
    let file = File::open(&images.path)?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, images.metadata.clone())
        .with_projection(mask)
        .with_batch_size(BATCH)
        .build()?;
    let classes = class_names(&schema);
    let split = split_of_name(&images.path);
    let mut line = 0;
    for batch in reader {
        let batch = batch.with_context(|| format!("is broken after row {line}"))?;
        let texts = all().map(|name| texts_of(&batch, name)).collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            line += 1;
            let mut fields = Fields::default();
            let mut values = texts.iter().zip(all()).map(|(column, name)| {
                let value = column.as_ref().and_then(|c| text_at(c, row));
                match (classes.get(name), value) {
                    (Some(words), Some(index)) => index.parse().ok().and_then(|i: usize| words.get(i).cloned()),
                    (_, value) => value,
                }
            });
            fields[..NAMED].iter_mut().zip(&mut values).for_each(|(field, value)| *field = value);
            fields[Field::Extra as usize] = extra_field(columns, |_| values.next().flatten());
            if fields[Field::Split as usize].is_none() {
                fields[Field::Split as usize] = split.clone();
            }
            if images.holds_bytes() && fields[0].is_none() {
                fields[0] = Some(format!("row {line}"));
            }
            take(line, Ok(fields));
        }
    }
    Ok(())
}

/// The split that the name of a file says, as `datasets` calls them: train-00000-of-00002.parquet.
fn split_of_name(path: &Path) -> Option<String> {
    let stem = path.file_stem()?.to_str()?;
    let word = stem.split(['-', '_', '.']).next()?;
    match word {
        "train" | "test" | "val" => Some(word.to_string()),
        "validation" | "valid" | "dev" => Some("val".to_string()),
        _ => None,
    }
}

/// A column as text; of an image its path.
fn texts_of(batch: &RecordBatch, name: &str) -> Result<Option<ArrayRef>> {
    let Some(mut column) = batch.column_by_name(name).cloned() else { return Ok(None) };
    if let Some(inner) = column.clone().as_struct_opt() {
        let Some(path) = inner.column_by_name("path") else { return Ok(None) };
        column = path.clone();
    }
    let text = arrow_cast::cast(&column, &DataType::Utf8);
    Ok(Some(text.with_context(|| format!("column {name:?} is {}, not text", column.data_type()))?))
}

fn text_at(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    filled(column.as_string_opt::<i32>()?.value(row))
}

/// Names of the classes of `ClassLabel` columns, which hold numbers.
fn class_names(schema: &SchemaRef) -> HashMap<String, Vec<String>> {
    let info = schema.metadata().get("huggingface").and_then(|text| serde_json::from_str::<Value>(text).ok());
    let features = info.as_ref().and_then(|v| v.pointer("/info/features")).and_then(Value::as_object);
    let names = features.into_iter().flatten().filter_map(|(column, feature)| {
        let names = feature.get("names")?.as_array()?;
        Some((column.clone(), names.iter().filter_map(|n| n.as_str().map(str::to_string)).collect()))
    });
    names.collect()
}
