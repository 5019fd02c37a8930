//! Pages of a column, each bounded by what it may hold before it takes memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, Type};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::RowGroupMetaData;

use super::delta;
use super::header::{self, HeaderError, PageHeader, PageKind};
use super::unpack::unpack;

/// Largest page, unpacked.
const MOST_BYTES: usize = 1 << 29;
/// Most values of a page of lists; in other pages the rows of the group are the bound.
const MOST_ITEMS: u64 = 1 << 22;
/// Most values of a dictionary: each is a place in the page, of 32 bytes.
const MOST_WORDS: u64 = 1 << 22;
/// Read at once for a header, which is rarely longer than a hundred bytes.
const HEADER: u64 = 4 << 10;
/// Longest header: statistics may repeat a value or two.
const LONGEST_HEADER: u64 = 16 << 20;

/// A page reader as the `parquet` crate's column readers want it.
pub(super) struct Pages {
    file: Arc<File>,
    /// Where the next page begins, and where the column ends.
    at: u64,
    end: u64,
    codec: Compression,
    /// Most values of a page.
    most: u64,
    /// Least bytes of a value in a dictionary.
    least: usize,
    /// Whether pages have levels of repetition and of definition.
    levels: (bool, bool),
    /// Values that are decoded at once.
    at_once: u64,
    /// The next page, once its header was read.
    next: Option<Located>,
    /// A dictionary that was passed over, in case it is wanted after all.
    dictionary: Option<Located>,
}

struct Located {
    header: PageHeader,
    body: u64,
}

fn broken(message: impl Into<String>) -> ParquetError {
    ParquetError::General(message.into())
}

impl Pages {
    /// The pages of column number `leaf`, of which `at_once` values are decoded at once.
    ///
    /// # Errors
    /// It is said to lie outside of the file.
    pub fn new(file: Arc<File>, group: &RowGroupMetaData, leaf: usize, at_once: u64) -> Result<Self> {
        let column = group.columns().get(leaf).ok_or_else(|| broken("a row group lacks a column"))?;
        let offset = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let range = u64::try_from(offset).ok().zip(u64::try_from(column.compressed_size()).ok());
        let end = range.and_then(|(start, len)| start.checked_add(len));
        let (Some((at, _)), Some(end)) = (range, end.filter(|end| file.metadata().is_ok_and(|m| *end <= m.len())))
        else {
            return Err(broken("a column is said to lie outside of the file"));
        };
        let levels = (column.column_descr().max_rep_level() > 0, column.column_descr().max_def_level() > 0);
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        let least = match column.column_type() {
            Type::FIXED_LEN_BYTE_ARRAY => usize::try_from(column.column_descr().type_length()).unwrap_or(1),
            _ => 4,
        };
        let most = if levels.0 { MOST_ITEMS } else { rows };
        let codec = column.compression();
        let (least, next, dictionary) = (least.max(1), None, None);
        Ok(Self { file, at, end, codec, most, least, levels, at_once, next, dictionary })
    }

    /// The next page that is no index, its claims checked.
    fn peek(&mut self) -> Result<Option<&Located>> {
        while self.next.is_none() && self.at < self.end {
            let (header, len) = self.header()?;
            let body = self.at + len as u64;
            let packed = header.packed as u64;
            let left = self.end.saturating_sub(body);
            if packed > left {
                return Err(broken(format!("a page claims {packed} bytes, the column has {left} left")));
            }
            if header.unpacked > MOST_BYTES {
                let claimed = header.unpacked;
                return Err(broken(format!("a page claims {claimed} bytes; allowed are {MOST_BYTES}")));
            }
            let most = match header.kind {
                // Of values without bytes a page of nothing would hold any number; more than rows are of no use.
                PageKind::Dictionary { .. } => self.most.min((header.unpacked / self.least) as u64).min(MOST_WORDS),
                _ => self.most,
            };
            if u64::from(header.values) > most {
                return Err(broken(format!("a page claims {} values; it can have {most}", header.values)));
            }
            self.at = body + packed;
            if header.kind != PageKind::Other {
                self.next = Some(Located { header, body });
            }
        }
        Ok(self.next.as_ref())
    }

    fn header(&self) -> Result<(PageHeader, usize)> {
        let left = self.end - self.at;
        for most in [HEADER, LONGEST_HEADER] {
            let bytes = self.bytes(self.at, left.min(most) as usize)?;
            match header::parse(&bytes) {
                Ok(found) => return Ok(found),
                Err(HeaderError::Short) if left > most => {}
                Err(_) => break,
            }
        }
        Err(broken(format!("the page at byte {} has a broken header", self.at)))
    }

    fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let mut file = &*self.file;
        let mut bytes = vec![0; len];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// What the values of a data page, behind its levels, claim of themselves.
    fn check_lengths(&self, page: &[u8], kind: &PageKind, encoding: Encoding, values: u32) -> Result<()> {
        if !delta::is_of(encoding) {
            return Ok(());
        }
        let values_at = match kind {
            PageKind::V1 { .. } => {
                let (repetition, definition) = self.levels;
                let mut at = 0;
                for _ in 0..usize::from(repetition) + usize::from(definition) {
                    let len = page.get(at..at + 4).ok_or_else(|| broken("a page's levels are cut"))?;
                    at += 4 + u32::from_le_bytes([len[0], len[1], len[2], len[3]]) as usize;
                }
                at
            }
            PageKind::V2(v2) => v2.definition_bytes as usize + v2.repetition_bytes as usize,
            PageKind::Dictionary { .. } | PageKind::Other => return Ok(()),
        };
        let bytes = page.get(values_at..).ok_or_else(|| broken("a page's levels are longer than it is"))?;
        delta::check(bytes, encoding, values.into(), self.at_once).map_err(broken)
    }

    fn page(&self, Located { header, body }: Located) -> Result<Page> {
        let packed = self.bytes(body, header.packed)?;
        let PageHeader { unpacked, values: num_values, encoding, kind, .. } = header;
        let (levels, is_compressed) = match &kind {
            PageKind::V2(v2) => (v2.definition_bytes as usize + v2.repetition_bytes as usize, v2.is_compressed),
            _ => (0, true),
        };
        let buf = if is_compressed && self.codec != Compression::UNCOMPRESSED {
            if levels > packed.len() || levels > unpacked {
                return Err(broken(format!("a page's levels are {levels} bytes of {unpacked}")));
            }
            let mut bytes = packed[..levels].to_vec();
            // A page of empty values alone packs nothing.
            if unpacked > levels {
                unpack(self.codec, &packed[levels..], unpacked - levels, &mut bytes).map_err(broken)?;
            }
            Bytes::from(bytes)
        } else {
            Bytes::from(packed)
        };
        self.check_lengths(&buf, &kind, encoding, num_values)?;
        Ok(match kind {
            PageKind::Dictionary { sorted } => Page::DictionaryPage { buf, num_values, encoding, is_sorted: sorted },
            PageKind::V1 { definition, repetition } => Page::DataPage {
                buf,
                num_values,
                encoding,
                def_level_encoding: definition,
                rep_level_encoding: repetition,
                statistics: None,
            },
            PageKind::V2(v2) => {
                if levels > buf.len() {
                    return Err(broken(format!("a page's levels are {levels} bytes of {}", buf.len())));
                }
                Page::DataPageV2 {
                    buf,
                    num_values,
                    encoding,
                    num_nulls: v2.nulls,
                    num_rows: v2.rows,
                    def_levels_byte_len: v2.definition_bytes,
                    rep_levels_byte_len: v2.repetition_bytes,
                    is_compressed,
                    statistics: None,
                }
            }
            PageKind::Other => return Err(broken("a page of an index stands among the data")),
        })
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.peek()?;
        self.next.take().map(|located| self.page(located)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Ok(self.peek()?.map(|Located { header, .. }| {
            let values = Some(header.values as usize);
            match &header.kind {
                PageKind::V2(v2) => {
                    PageMetadata { num_rows: Some(v2.rows as usize), num_levels: values, is_dict: false }
                }
                PageKind::Dictionary { .. } => PageMetadata { num_rows: None, num_levels: None, is_dict: true },
                _ => PageMetadata { num_rows: None, num_levels: values, is_dict: false },
            }
        }))
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.peek()?;
        let skipped = self.next.take();
        let is_dictionary = |l: &Located| matches!(l.header.kind, PageKind::Dictionary { .. });
        if let Some(dictionary) = skipped.filter(is_dictionary) {
            self.dictionary = Some(dictionary);
        }
        Ok(())
    }

    fn supports_deferred_dictionary(&self) -> bool {
        true
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.dictionary.take().map(|located| self.page(located)).transpose()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        // Pages of the second version begin with a record.
        Ok(self.peek()?.is_none_or(|l| matches!(l.header.kind, PageKind::V2(_))))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn zigzag(value: i64) -> Vec<u8> {
        let mut folded = (value << 1 ^ value >> 63) as u64;
        let mut bytes = Vec::new();
        while folded >= 0x80 {
            bytes.push(folded as u8 | 0x80);
            folded >>= 7;
        }
        bytes.push(folded as u8);
        bytes
    }

    /// A page with a header of what it claims.
    fn page(dictionary: bool, unpacked: i64, packed: i64, values: i64, body: &[u8]) -> Vec<u8> {
        let numbers = |first: i64, others: &[i64]| -> Vec<u8> {
            [&[first][..], others].concat().iter().flat_map(|n| [vec![0x15], zigzag(*n)].concat()).collect()
        };
        let (kind, skip, inner) =
            if dictionary { (2, 0x4c, numbers(values, &[0])) } else { (0, 0x2c, numbers(values, &[0, 3, 3])) };
        [numbers(kind, &[unpacked, packed]), vec![skip], inner, vec![0, 0], body.to_vec()].concat()
    }

    fn pages(bytes: &[u8], codec: Compression) -> Pages {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let (at, end) = (0, bytes.len() as u64);
        let (levels, next, dictionary) = ((false, false), None, None);
        Pages { file: Arc::new(file), at, end, codec, most: 100, least: 4, levels, at_once: 100, next, dictionary }
    }

    #[test]
    fn pages_come_in_order_or_are_passed_over() {
        let parts = [page(true, 4, 4, 1, b"dict"), page(false, 3, 3, 2, b"one"), page(false, 3, 3, 5, b"two")];
        let mut all = pages(&parts.concat(), Compression::UNCOMPRESSED);
        let bodies: Vec<Vec<u8>> = all.by_ref().map(|page| page.unwrap().buffer().to_vec()).collect();
        assert_eq!(bodies, [b"dict".to_vec(), b"one".to_vec(), b"two".to_vec()]);
        let mut some = pages(&parts.concat(), Compression::UNCOMPRESSED);
        assert!(some.peek_next_page().unwrap().unwrap().is_dict);
        some.skip_next_page().unwrap();
        assert_eq!(some.peek_next_page().unwrap().unwrap().num_levels, Some(2));
        some.skip_next_page().unwrap();
        assert_eq!(some.get_next_page().unwrap().unwrap().buffer()[..], b"two"[..]);
        assert!(some.take_deferred_dictionary().unwrap().unwrap().is_dictionary_page());
        assert!(some.get_next_page().unwrap().is_none());
    }

    /// Nothing is allocated for what a header merely claims.
    #[test]
    fn a_lying_header_is_one_line() {
        let snappy = snap::raw::Encoder::new().compress_vec(&[7; 1000]).unwrap();
        let len = snappy.len() as i64;
        let cases: [(Vec<u8>, &str); 8] = [
            (page(false, i64::from(i32::MAX), len, 5, &snappy), "claims 2147483647 bytes; allowed are 536870912"),
            (page(false, 1 << 29, len, 5, &snappy), "claims 536870912 bytes and holds 1000"),
            (page(false, 1000, len + 1, 5, &snappy), "the column has"),
            (page(false, 1000, i64::from(i32::MAX), 5, &snappy), "the column has"),
            (page(false, 1000, len, 101, &snappy), "claims 101 values; it can have 100"),
            (page(true, 1000, len, 251, &snappy), "claims 251 values; it can have 100"),
            (page(false, -1, len, 5, &snappy), "has a broken header"),
            (page(false, 1000, len, -5, &snappy), "has a broken header"),
        ];
        for (bytes, wanted) in cases {
            let error = pages(&bytes, Compression::SNAPPY).get_next_page().unwrap_err().to_string();
            assert!(error.contains(wanted) && !error.contains('\n'), "{wanted}: {error}");
        }
        assert!(pages(&page(false, 1000, len, 5, &snappy), Compression::SNAPPY).get_next_page().is_ok());
    }
}
