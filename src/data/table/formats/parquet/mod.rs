//! Parquet files as Hugging Face `datasets` writes them: an image is a struct of bytes and path.
//!
//! Texts are read once when the file is opened; an image is read where it lies, a page at a time.

mod delta;
mod footer;
mod header;
mod lists;
mod pages;
mod texts;
mod unpack;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::file::metadata::ParquetMetaData;
use parquet::schema::types::{SchemaDescriptor, Type as SchemaType};
use serde_json::Value;

use crate::data::image::most_bytes;
use crate::data::table::columns::{Columns, missing_column};
use crate::data::table::fields::{Field, Fields, IMAGE_SEPARATOR, NAMED, Take, extra_field, names, packed_name};
use crate::data::table::format::{Format, InFolder, PackedImages, Table};
use lists::ListOfImages;
use pages::Pages;
use texts::TextColumn;

/// Rows decoded at once when texts are read.
const BATCH: usize = 256;
/// Rows beside one a byte of the file: levels coded by their runs make any number of empty ones of nothing.
const ROWS_OF_NOTHING: u64 = 1 << 16;
/// Bytes of all texts of a file: `MOST_TEXT` and so many times its length. A dictionary's words may stand in every row.
const MOST_TEXT: u64 = 64 << 20;
const TEXT_A_BYTE: u64 = 64;

/// The format.
pub(super) struct Parquet;

impl Format for Parquet {
    fn names(&self) -> &'static [&'static str] {
        &["Parquet"]
    }

    fn claims(&self, ending: &str, _: &[u8]) -> bool {
        ending == "parquet"
    }

    fn in_folder(&self) -> InFolder {
        InFolder { manifests: &["manifest.parquet"], parts: Some("parquet") }
    }

    fn open(&self, path: &Path, columns: &Columns) -> Result<Box<dyn Table>> {
        Ok(Box::new(ParquetTable(Arc::new(ParquetFile::open(path, columns)?))))
    }
}

/// An open file.
#[derive(Debug)]
struct ParquetFile {
    path: PathBuf,
    metadata: ParquetMetaData,
    /// First row of each row group, and the number of all rows.
    starts: Vec<u64>,
    image_column: String,
    /// Leaf that holds the bytes of images; `None` where the column holds paths.
    bytes_leaf: Option<usize>,
    /// Where that is in lists.
    list: Option<ListOfImages>,
}

impl ParquetFile {
    /// Opens a file and finds its image column.
    fn open(path: &Path, columns: &Columns) -> Result<Self> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        let metadata = footer::read(&mut file)?;
        let schema = metadata.file_metadata().schema_descr();
        let known: Vec<&str> = schema.root_schema().get_fields().iter().map(|f| f.name()).collect();
        for required in columns.required() {
            ensure!(known.contains(&required), "{}", missing_column(required, &known, columns));
        }
        let (bytes_leaf, list) = bytes_leaf(schema, &columns.image)?;
        let mut starts = vec![0u64];
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).context("a row group has fewer than no rows")?;
            let all = starts[starts.len() - 1].checked_add(rows).context("claims more rows than can be counted")?;
            starts.push(all);
        }
        let rows = starts[starts.len() - 1];
        ensure!(rows > 0, "has no rows");
        ensure!(rows <= len.saturating_add(ROWS_OF_NOTHING), "claims {rows} rows, which {len} bytes cannot hold");
        Ok(Self { path: path.to_path_buf(), metadata, starts, image_column: columns.image.clone(), bytes_leaf, list })
    }

    fn schema(&self) -> &SchemaDescriptor {
        self.metadata.file_metadata().schema_descr()
    }

    /// The leaf that holds a column's texts: its only one, or of an image its path, which stands beside its bytes.
    fn text_leaf(&self, name: &str) -> Option<usize> {
        let leaves = self.schema().columns().iter().enumerate();
        let own: Vec<_> = leaves.filter(|(_, leaf)| leaf.path().parts().first().is_some_and(|f| f == name)).collect();
        match own.as_slice() {
            [(only, leaf)] if leaf.path().parts().len() == 1 || leaf.max_rep_level() > 0 => Some(*only),
            _ => own.iter().find(|(_, leaf)| leaf.path().parts()[1..] == ["path"]).map(|(i, _)| *i),
        }
    }

    fn text_column(&self, name: &str, classes: &HashMap<String, Arc<Vec<String>>>) -> Result<Option<TextColumn>> {
        if self.bytes_leaf.is_some() && name == self.image_column && self.text_leaf(name) == self.bytes_leaf {
            return Ok(None);
        }
        let Some(leaf) = self.text_leaf(name) else { return Ok(None) };
        let column = TextColumn::new(leaf, &self.schema().column(leaf), classes.get(name).cloned());
        Ok(Some(column.with_context(|| format!("column {name:?}"))?))
    }
}

/// The leaf with the bytes of images, and their list where they lie in one; `None` where the column holds paths.
fn bytes_leaf(schema: &SchemaDescriptor, image: &str) -> Result<(Option<usize>, Option<ListOfImages>)> {
    let leaf = |parts: &[&str]| schema.columns().iter().position(|leaf| leaf.path().parts() == parts);
    let field = schema.root_schema().get_fields().iter().find(|f| f.name() == image).context("has no image column")?;
    if let SchemaType::GroupType { basic_info, .. } = field.as_ref()
        && basic_info.converted_type() == ConvertedType::LIST
    {
        let mut leaves = schema.columns().iter().filter(|leaf| leaf.path().parts().first().is_some_and(|f| f == image));
        let is_of_text = leaves.next().is_some_and(|leaf| leaf.converted_type() == ConvertedType::UTF8);
        if is_of_text && leaves.next().is_none() {
            return Ok((None, None));
        }
        let list = ListOfImages::find(schema, field).with_context(|| {
            format!(
                "column {image:?} is a list of something else than images; allowed are lists of paths (text), of \
                     bytes, and of the images of Hugging Face datasets"
            )
        })?;
        return Ok((Some(list.bytes), Some(list)));
    }
    let SchemaType::PrimitiveType { basic_info, physical_type, .. } = field.as_ref() else {
        let bytes = leaf(&[image, "bytes"]).with_context(|| {
            format!("column {image:?} is a struct without bytes; allowed is the image of Hugging Face datasets")
        })?;
        let stored = schema.column(bytes).physical_type();
        ensure!(stored == Type::BYTE_ARRAY, "column {image:?} has {stored} for bytes");
        return Ok((Some(bytes), None));
    };
    ensure!(
        *physical_type == Type::BYTE_ARRAY,
        "column {image:?} is {physical_type}; allowed are images (bytes) and paths (text)"
    );
    let is_text = matches!(basic_info.logical_type_ref(), Some(LogicalType::String | LogicalType::Enum))
        || matches!(basic_info.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM);
    Ok((if is_text { None } else { leaf(&[image]) }, None))
}

#[derive(Debug)]
struct ParquetTable(Arc<ParquetFile>);

impl Table for ParquetTable {
    fn images(&self) -> Option<Arc<dyn PackedImages>> {
        self.0.bytes_leaf.map(|_| Arc::clone(&self.0) as Arc<dyn PackedImages>)
    }

    fn read(self: Box<Self>, columns: &Columns, take: &mut Take) -> Result<()> {
        let parquet = &*self.0;
        let file = Arc::new(File::open(&parquet.path)?);
        let classes = class_names(&parquet.metadata);
        let report = &columns.report;
        ensure!(
            parquet.text_leaf(report).is_some(),
            "column {report:?} is a struct; allowed are text, numbers, dates and lists of them"
        );
        let all: Vec<&str> = names(columns).into_iter().chain(columns.extra.iter().map(String::as_str)).collect();
        let wanted: Vec<Option<TextColumn>> =
            all.iter().map(|name| parquet.text_column(name, &classes)).collect::<Result<_>>()?;
        let split = split_of_name(&parquet.path);
        let most_text = MOST_TEXT.saturating_add(file.metadata()?.len().saturating_mul(TEXT_A_BYTE));
        let (mut line, mut text) = (0, 0u64);
        for group in parquet.metadata.row_groups() {
            let mut readers = Vec::new();
            let pages = |leaf| -> Result<_> { Ok(Pages::new(Arc::clone(&file), group, leaf, BATCH as u64)?) };
            for column in &wanted {
                let open =
                    |c: &TextColumn| -> Result<_> { Ok(c.reader(parquet.schema().column(c.leaf), pages(c.leaf)?)) };
                readers.push(column.as_ref().map(open).transpose()?);
            }
            let mut counts = parquet.list.as_ref().map(|list| list.counts(parquet.schema(), pages)).transpose()?;
            let mut left = group.num_rows() as usize;
            while left > 0 {
                let count = left.min(BATCH);
                left -= count;
                let mut texts = Vec::new();
                for (reader, name) in readers.iter_mut().zip(&all) {
                    let mut take = |len: usize| {
                        text = text.saturating_add(len as u64);
                        ensure!(text <= most_text, "its texts unpack to more than {most_text} bytes");
                        Ok(())
                    };
                    let next = reader.as_mut().map(|r| r.next(count, &mut take)).transpose();
                    texts.push(next.with_context(|| format!("column {name:?} is broken after row {line}"))?);
                }
                for row in 0..count {
                    line += 1;
                    let mut values = texts.iter_mut().map(|column| column.as_mut().and_then(|c| c[row].take()));
                    let mut fields = Fields::default();
                    fields[..NAMED].iter_mut().zip(&mut values).for_each(|(field, value)| *field = value);
                    fields[Field::Extra as usize] = extra_field(columns, |_| values.next().flatten());
                    if fields[Field::Split as usize].is_none() {
                        fields[Field::Split as usize] = split.clone();
                    }
                    if let Some(counts) = &mut counts {
                        let images =
                            counts.next().with_context(|| format!("column {:?}, row {line}", columns.image))?;
                        fields[Field::Image as usize] = names_of(line, images);
                        let len = fields[Field::Image as usize].as_ref().map_or(0, String::len);
                        text = text.saturating_add(len as u64);
                        ensure!(text <= most_text, "its rows name more images than {most_text} bytes do");
                    } else if parquet.bytes_leaf.is_some() && fields[Field::Image as usize].is_none() {
                        fields[Field::Image as usize] = Some(format!("row {line}"));
                    }
                    take(line, Ok(fields));
                }
            }
        }
        Ok(())
    }
}

impl PackedImages for ParquetFile {
    fn image(&self, line: u64, part: u32) -> Result<Vec<u8>> {
        let leaf = self.bytes_leaf.context("holds no images")?;
        let row = line.checked_sub(1).context("rows count from 1")?;
        let group = self.starts.partition_point(|&start| start <= row) - 1;
        let within = (row - self.starts[group]) as usize;
        let metadata = self.metadata.row_groups().get(group).context("the row is missing")?;
        // A file of its own each time: threads read at places of their own.
        let pages = Pages::new(Arc::new(File::open(&self.path)?), metadata, leaf, u64::MAX)?;
        let ColumnReader::ByteArrayColumnReader(mut reader) =
            get_column_reader(self.schema().column(leaf), Box::new(pages))
        else {
            bail!("column {:?} holds no bytes", self.image_column);
        };
        ensure!(reader.skip_records(within)? == within, "the row is missing");
        let (mut values, mut definition) = (Vec::new(), Vec::new());
        let (rows, ..) = reader.read_records(1, Some(&mut definition), Some(&mut Vec::new()), &mut values)?;
        ensure!(rows == 1, "the row is missing");
        let full = self.schema().column(leaf).max_def_level();
        let place = self.list.as_ref().map_or(Some(0), |list| list.value_of(&definition, full, part as usize));
        let image = place.and_then(|place| values.get(place)).context("the row has no image")?.data();
        let (len, most) = (image.len() as u64, most_bytes());
        ensure!(len <= most, "the image has {len} bytes; allowed are {most} (data.max_image_mib, --max-image-mib)");
        Ok(image.to_vec())
    }
}

/// What the images of a row are called; `None` of none.
fn names_of(line: u64, images: u32) -> Option<String> {
    let name = format!("row {line}");
    if images < 2 {
        return (images == 1).then_some(name);
    }
    let names: Vec<String> = (0..images).map(|part| packed_name(&name, line, part)).collect();
    Some(names.join(IMAGE_SEPARATOR.encode_utf8(&mut [0; 4])))
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

/// Names of the classes of `ClassLabel` columns, which hold numbers, and of lists of them.
fn class_names(metadata: &ParquetMetaData) -> HashMap<String, Arc<Vec<String>>> {
    let pairs = metadata.file_metadata().key_value_metadata().into_iter().flatten();
    let text = pairs.filter(|pair| pair.key == "huggingface").find_map(|pair| pair.value.as_deref());
    let info = text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let features = info.as_ref().and_then(|v| v.pointer("/info/features")).and_then(Value::as_object);
    let names = features.into_iter().flatten().filter_map(|(column, feature)| {
        // {"names": …}, {"feature": {"names": …}, "_type": "List"}, or [{"names": …}].
        let item = feature.get("feature").or_else(|| feature.get(0)).unwrap_or(feature);
        let names = item.get("names")?.as_array()?;
        Some((column.clone(), Arc::new(names.iter().filter_map(|n| n.as_str().map(str::to_string)).collect())))
    });
    names.collect()
}
