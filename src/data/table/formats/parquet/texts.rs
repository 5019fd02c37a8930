//! Columns as texts, whatever they are stored as.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::DataType;
use parquet::schema::types::ColumnDescriptor;

use super::pages::Pages;
use crate::data::table::fields::filled;

/// Between the items of a list: what [`Row::labels`](crate::data::Row::labels) cuts at.
const ITEM_SEPARATOR: &str = ";";

/// How a column's values read.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    /// Text, truth values, floating numbers: as they are.
    Plain,
    Signed,
    Unsigned,
    /// Digits behind the point.
    Decimal(usize),
    /// Days since 1970.
    Date,
    /// Units a second since 1970, and whether that is in Greenwich.
    Timestamp(i64, bool),
}

impl Meaning {
    fn of(column: &ColumnDescriptor) -> Result<Self> {
        let decimal = || Self::Decimal(usize::try_from(column.type_scale()).unwrap_or(0));
        let whole = matches!(column.physical_type(), Type::INT32 | Type::INT64);
        Ok(match (column.logical_type_ref(), column.converted_type()) {
            (Some(LogicalType::Decimal(_)), _) | (_, ConvertedType::DECIMAL) => decimal(),
            (Some(LogicalType::Date), _) | (_, ConvertedType::DATE) => Self::Date,
            (Some(LogicalType::Timestamp(t)), _) => {
                let units = match t.unit {
                    TimeUnit::MILLIS => 1000,
                    TimeUnit::MICROS => 1_000_000,
                    TimeUnit::NANOS => 1_000_000_000,
                };
                Self::Timestamp(units, t.is_adjusted_to_u_t_c)
            }
            (_, ConvertedType::TIMESTAMP_MILLIS) => Self::Timestamp(1000, true),
            (_, ConvertedType::TIMESTAMP_MICROS) => Self::Timestamp(1_000_000, true),
            (Some(LogicalType::Integer(int)), _) if !int.is_signed => Self::Unsigned,
            (_, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => {
                Self::Unsigned
            }
            (Some(LogicalType::Time(_)), _) | (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => {
                bail!("holds times of day; allowed are text, numbers, dates and lists of them")
            }
            _ if whole => Self::Signed,
            _ => match column.physical_type() {
                Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => {
                    bail!("is {}; allowed are text, numbers, dates and lists of them", column.physical_type())
                }
                _ => Self::Plain,
            },
        })
    }

    fn integer(self, value: i64, bits: u32) -> String {
        match self {
            Self::Unsigned if bits == 32 => (value as u32).to_string(),
            Self::Unsigned => (value as u64).to_string(),
            Self::Decimal(scale) => decimal(value.into(), scale),
            Self::Date => date(value),
            Self::Timestamp(units, zone) => {
                let (seconds, rest) = (value.div_euclid(units), value.rem_euclid(units));
                let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
                let fraction =
                    if rest == 0 { String::new() } else { format!(".{rest:0width$}", width = units.ilog10() as usize) };
                let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
                format!("{}T{hour:02}:{minute:02}:{second:02}{fraction}{}", date(day), if zone { "Z" } else { "" })
            }
            Self::Plain | Self::Signed => value.to_string(),
        }
    }

    fn bytes(self, value: &[u8]) -> Option<String> {
        match self {
            Self::Decimal(scale) => {
                // Two's complement, the highest byte first.
                let first = if *value.first()? >= 0x80 { -1 } else { 0 };
                let number =
                    (value.len() <= 16).then(|| value.iter().fold(first, |n: i128, &b| n << 8 | i128::from(b)));
                number.map(|n| decimal(n, scale))
            }
            _ => std::str::from_utf8(value).ok().map(str::to_string),
        }
    }
}

fn decimal(value: i128, scale: usize) -> String {
    if scale == 0 {
        return value.to_string();
    }
    let digits = format!("{:0width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, part) = digits.split_at(digits.len() - scale);
    format!("{}{whole}.{part}", if value < 0 { "-" } else { "" })
}

/// The Gregorian calendar's day number `days` since 1970-01-01, counted in eras of 400 years that begin in March.
fn date(days: i64) -> String {
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// What a column is, the same in all row groups.
#[derive(Clone, Debug)]
pub(super) struct TextColumn {
    /// Its number among the leaves of the schema.
    pub leaf: usize,
    meaning: Meaning,
    /// Names of the classes that its numbers stand for.
    classes: Option<Arc<Vec<String>>>,
}

impl TextColumn {
    /// # Errors
    /// It holds what is no text.
    pub fn new(leaf: usize, column: &ColumnDescriptor, classes: Option<Arc<Vec<String>>>) -> Result<Self> {
        Ok(Self { leaf, meaning: Meaning::of(column)?, classes })
    }

    /// Its texts in one row group.
    pub fn reader(&self, column: Arc<ColumnDescriptor>, pages: Pages) -> TextReader {
        let full = column.max_def_level();
        let lists = column.max_rep_level() > 0;
        TextReader { column: self.clone(), full, lists, values: get_column_reader(column, Box::new(pages)) }
    }

    fn text(&self, value: String) -> Option<String> {
        match &self.classes {
            None => filled(&value),
            Some(names) => value.parse().ok().and_then(|i: usize| names.get(i).cloned()),
        }
    }
}

/// Reads a column of a row group in order.
pub(super) struct TextReader {
    column: TextColumn,
    /// Definition level of a value that is there.
    full: i16,
    lists: bool,
    values: ColumnReader,
}

impl TextReader {
    /// The texts of the next `rows` rows; `take` hears of the length of each before room is made for it.
    pub fn next(&mut self, rows: usize, take: &mut dyn FnMut(usize) -> Result<()>) -> Result<Vec<Option<String>>> {
        let Self { column, full, lists, values } = self;
        let meaning = column.meaning;
        let shape = Shape { rows, full: *full, lists: *lists };
        let text = |value: String| column.text(value);
        let of_bytes = |value: &[u8]| meaning.bytes(value).and_then(&text);
        let mut few = |value: Option<String>| value.map_or(Ok(None), |v| take(v.len()).map(|()| Some(v)));
        match values {
            ColumnReader::BoolColumnReader(r) => shape.read(r, |v| few(text(v.to_string()))),
            ColumnReader::Int32ColumnReader(r) => shape.read(r, |v| few(text(meaning.integer(i64::from(*v), 32)))),
            ColumnReader::Int64ColumnReader(r) => shape.read(r, |v| few(text(meaning.integer(*v, 64)))),
            ColumnReader::FloatColumnReader(r) => shape.read(r, |v| few(text(format!("{v:?}")))),
            ColumnReader::DoubleColumnReader(r) => shape.read(r, |v| few(text(format!("{v:?}")))),
            ColumnReader::ByteArrayColumnReader(r) => shape.read(r, |v| take(v.len()).map(|()| of_bytes(v.data()))),
            ColumnReader::FixedLenByteArrayColumnReader(r) => {
                shape.read(r, |v| take(v.len()).map(|()| of_bytes(v.data())))
            }
            ColumnReader::Int96ColumnReader(_) => bail!("is INT96, not text"),
        }
    }
}

struct Shape {
    rows: usize,
    full: i16,
    lists: bool,
}

impl Shape {
    /// A text each row; the items of a list joined.
    fn read<T: DataType>(
        &self,
        reader: &mut ColumnReaderImpl<T>,
        mut text: impl FnMut(&T::T) -> Result<Option<String>>,
    ) -> Result<Vec<Option<String>>> {
        let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (rows, ..) = reader.read_records(self.rows, Some(&mut definition), Some(&mut repetition), &mut values)?;
        ensure!(rows == self.rows, "ends {} rows before its row group", self.rows - rows);
        let mut values = values.iter();
        if self.full == 0 {
            return values.map(text).collect();
        }
        let mut texts: Vec<Option<String>> = Vec::with_capacity(rows);
        for (i, level) in definition.iter().enumerate() {
            let there = (*level == self.full).then(|| values.next()).flatten();
            let value = there.map_or(Ok(None), &mut text)?;
            if !self.lists || repetition.get(i) == Some(&0) {
                texts.push(value);
                continue;
            }
            let list = texts.last_mut().context("begins within a list")?;
            match (list.as_mut(), value) {
                (Some(list), Some(item)) => *list = std::mem::take(list) + ITEM_SEPARATOR + &item,
                (None, item) => *list = item,
                (Some(_), None) => {}
            }
        }
        Ok(texts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_dates_as_people_write_them() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(-1), "1969-12-31");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(-141_427), "1582-10-15");
        assert_eq!(decimal(-5, 2), "-0.05");
        assert_eq!(decimal(12_345, 2), "123.45");
        assert_eq!(Meaning::Decimal(0).bytes(&[0xff, 0xfe]).unwrap(), "-2");
        assert_eq!(Meaning::Decimal(1).bytes(&[0x01, 0x00]).unwrap(), "25.6");
        assert_eq!(Meaning::Unsigned.integer(-1, 32), "4294967295");
        assert_eq!(Meaning::Timestamp(1000, true).integer(86_400_250, 64), "1970-01-02T00:00:00.250Z");
        assert_eq!(Meaning::Timestamp(1_000_000, false).integer(0, 64), "1970-01-01T00:00:00");
    }
}
