//! Columns of lists of images: how many a row has, and where in its record one lies.

use std::sync::Arc;

use anyhow::{Result, ensure};
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor, Type as SchemaType};

use super::pages::Pages;

/// Images of a row; `data.bag.max` allows as many.
const MOST_IMAGES: u32 = 1 << 16;

/// A list of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListOfImages {
    /// The leaf that holds their bytes.
    pub bytes: usize,
    /// The leaf whose items are counted: their paths, where these stand beside the bytes.
    counted: usize,
    /// Definition level from which on there is an item, and not an empty list or none.
    item: i16,
}

impl ListOfImages {
    /// Of the column `field`, whose items are bytes, or structs of bytes and path.
    pub fn find(schema: &SchemaDescriptor, field: &SchemaType) -> Option<Self> {
        let leaves = schema.columns().iter().enumerate();
        let own: Vec<_> =
            leaves.filter(|(_, leaf)| leaf.path().parts().first().is_some_and(|f| f == field.name())).collect();
        let last =
            |(_, leaf): &&(usize, &Arc<ColumnDescriptor>), name| leaf.path().parts().last().is_some_and(|l| l == name);
        let bytes = match own.as_slice() {
            [only] => only,
            several => several.iter().find(|leaf| last(leaf, "bytes"))?,
        };
        let counted = own.iter().find(|leaf| last(leaf, "path")).unwrap_or(bytes);
        let is_list = bytes.1.max_rep_level() == 1 && bytes.1.physical_type() == Type::BYTE_ARRAY;
        // The list itself may be none; what repeats is one level more.
        let item = i16::from(field.is_optional()) + 1;
        is_list.then_some(Self { bytes: bytes.0, counted: counted.0, item })
    }

    /// Counts of a row group, row after row.
    ///
    /// # Errors
    /// As [`Pages::new`].
    pub fn counts(&self, schema: &SchemaDescriptor, pages: impl FnOnce(usize) -> Result<Pages>) -> Result<Counts> {
        let reader = get_column_reader(schema.column(self.counted), Box::new(pages(self.counted)?));
        Ok(Counts { reader, item: self.item })
    }

    /// Which of a record's values is that of item number `part`; `None` where the item has none.
    pub fn value_of(&self, definition: &[i16], full: i16, part: usize) -> Option<usize> {
        let mut items = definition.iter().filter(|level| **level >= self.item).enumerate();
        let mut values = 0;
        items.find_map(|(number, level)| {
            let is_there = *level == full;
            values += usize::from(is_there);
            (number == part).then_some(is_there.then(|| values - 1))
        })?
    }
}

/// How many images the rows of a group have.
pub(super) struct Counts {
    reader: ColumnReader,
    item: i16,
}

impl Counts {
    /// Of the next row.
    ///
    /// # Errors
    /// The column is broken or ends early, or a row has more than any bag.
    pub fn next(&mut self) -> Result<u32> {
        match &mut self.reader {
            ColumnReader::ByteArrayColumnReader(reader) => count(reader, self.item),
            _ => anyhow::bail!("holds neither bytes nor paths"),
        }
    }
}

/// One row at a time: bytes that are counted are not kept.
fn count<T: DataType>(reader: &mut ColumnReaderImpl<T>, item: i16) -> Result<u32> {
    let (mut definition, mut values) = (Vec::new(), Vec::new());
    let (rows, ..) = reader.read_records(1, Some(&mut definition), Some(&mut Vec::new()), &mut values)?;
    ensure!(rows == 1, "ends before its row group");
    let images = definition.iter().filter(|level| **level >= item).count();
    ensure!(images <= MOST_IMAGES as usize, "has {images} images in one row; allowed are {MOST_IMAGES}");
    Ok(images as u32)
}
