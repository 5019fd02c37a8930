//! The footer of a file, walked before the `parquet` crate reads it: the crate makes room for as many row groups,
//! columns and fields of the schema as are claimed, and goes down the schema without end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, anyhow, ensure};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::header::{Compact, HeaderError, LIST, Numbers, STRUCT};

/// Longest footer: a column of a row group takes about a hundred bytes.
const MOST_BYTES: u64 = 64 << 20;
/// Items of all its lists: each takes up to 600 bytes once it is read.
const MOST_ITEMS: u64 = 1 << 19;
/// Structs in structs; statistics of a column of a row group nest seven deep.
const DEEPEST: usize = 16;
/// Fields in fields of the schema.
const DEEPEST_SCHEMA: usize = 32;
/// Its length and PAR1, behind it.
const TAIL: u64 = 8;

/// Reads the footer of a file.
///
/// # Errors
/// It is broken, or claims more than any has.
pub(super) fn read(file: &mut File) -> Result<ParquetMetaData> {
    let hint = "cannot be read as Parquet; is it truncated, or a Git LFS pointer?";
    let bytes = bytes(file).context(hint)?;
    check(&bytes).context(hint)?;
    ParquetMetaDataReader::decode_metadata(&bytes).context(hint)
}

fn bytes(file: &mut File) -> Result<Vec<u8>> {
    let len = file.metadata()?.len();
    let end = len.checked_sub(TAIL).context("it is too short")?;
    let mut tail = [0; TAIL as usize];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut tail)?;
    ensure!(tail[4..] == *b"PAR1", "it does not end in PAR1");
    let claimed = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    ensure!(claimed <= end, "its footer claims {claimed} bytes; there are {end} before it");
    ensure!(claimed <= MOST_BYTES, "its footer has {claimed} bytes; allowed are {MOST_BYTES}");
    let mut bytes = vec![0; claimed as usize];
    file.seek(SeekFrom::Start(end - claimed))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn check(bytes: &[u8]) -> Result<()> {
    let mut schema = None;
    let walked = Compact::new(bytes, MOST_ITEMS).fields(DEEPEST, &mut |input, id, kind| {
        if (id, kind) != (2, LIST) {
            return Ok(false);
        }
        schema = Some(children(input)?);
        Ok(true)
    });
    walked.map_err(|e| match e {
        HeaderError::Short => anyhow!("its footer is cut"),
        HeaderError::Broken => anyhow!("its footer is broken"),
    })?;
    ensure!(is_tree(&schema.context("its footer has no schema")?), "its schema is broken or nests too deep");
    Ok(())
}

/// How many children each element of the schema claims.
fn children(input: &mut Compact) -> super::header::Result<Vec<i64>> {
    let (kind, len) = input.list()?;
    if kind != STRUCT {
        return Err(HeaderError::Broken);
    }
    let mut all = Vec::new();
    for _ in 0..len {
        let mut numbers = Numbers::default();
        input.fields(DEEPEST, &mut |input, id, kind| input.number(id, kind, &mut numbers))?;
        all.push(numbers[5].unwrap_or(0));
    }
    Ok(all)
}

/// Whether the elements, each before its children, are one tree of bounded depth.
fn is_tree(children: &[i64]) -> bool {
    // Children that are still to come, from the root down.
    let mut open = vec![1i64];
    for &count in children {
        while open.last() == Some(&0) {
            open.pop();
        }
        let Some(left) = open.last_mut() else { return false };
        *left -= 1;
        if !(0..=children.len() as i64).contains(&count) || open.len() > DEEPEST_SCHEMA {
            return false;
        }
        open.push(count);
    }
    !children.is_empty() && open.iter().all(|&left| left == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_one_tree() {
        assert!(is_tree(&[2, 0, 1, 0]) && is_tree(&[1, 2, 0, 0]));
        for broken in [vec![], vec![1], vec![1, 0, 0], vec![i64::from(i32::MAX), 0], vec![-1], vec![1; 100_000]] {
            assert!(!is_tree(&broken), "{:?}", &broken[..broken.len().min(4)]);
        }
    }

    #[test]
    fn what_a_footer_claims_is_not_believed() {
        let named = |end: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            std::io::Write::write_all(&mut file, end).unwrap();
            format!("{:#}", read(&mut file).unwrap_err())
        };
        assert!(named(b"PAR1").contains("too short"));
        assert!(named(b"PAR1\xff\xff\xff\x7fPAR1").contains("its footer claims 2147483647 bytes"));
        // A list of 2^27 row groups, one byte each; structs without end; a schema that says it has 2^31 - 1 children.
        let groups = [&[0x29, 0xfc, 0x80, 0x80, 0x80, 0x40][..], &[0; 1000]].concat();
        let schema = [&[0x29, 0x1c, 0x55, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0][..]].concat();
        for (footer, wanted) in [
            (groups, "its footer is broken"),
            (vec![0x1c; 1000], "its footer is broken"),
            (vec![0x15], "its footer is cut"),
            (schema, "its schema is broken"),
        ] {
            let end = [&footer[..], &(footer.len() as u32).to_le_bytes(), b"PAR1"].concat();
            let error = named(&end);
            assert!(error.contains(wanted), "{wanted}: {error}");
        }
    }
}
