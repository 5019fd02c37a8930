//! The header of NumPy's `.npy` arrays (numpy.lib.format).

use std::io;

use anyhow::{Context, Result, anyhow, ensure};

/// How such a file begins; two bytes of version follow, and the length of its header.
pub const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// What a file is told that has no such header.
const NO_NPY: &str = "is no .npy file, as numpy.save writes it";

/// The beginning of a file of bytes with these sides, the last one closest together.
pub fn header_of_bytes(shape: &[usize]) -> Vec<u8> {
    let sides: String = shape.iter().map(|side| format!("{side}, ")).collect();
    let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({sides}), }}");
    // Numbers begin at a multiple of 64 bytes, behind the end of a line.
    let length = (text.len() + 11).next_multiple_of(64) - 10;
    let mut bytes = [&MAGIC[..], &[1, 0], &(length as u16).to_le_bytes()].concat();
    bytes.extend_from_slice(format!("{text:<width$}\n", width = length - 1).as_bytes());
    bytes
}

/// What is said of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type of its numbers, as `<f4`; `None` where they are no plain numbers.
    pub kind: Option<String>,
    /// Whether its first axis lies closest together; `None` where it does not say.
    pub is_fortran: Option<bool>,
    /// Its sides; `None` where it has none.
    pub shape: Option<Vec<usize>>,
    /// Bytes before its numbers.
    pub length: u64,
}

impl Header {
    /// Reads it by `read`, which fills what it gets with the bytes that come next; `most`: of the longest text.
    ///
    /// # Errors
    /// It is none, cut off, or longer.
    pub fn read(read: &mut dyn FnMut(&mut [u8]) -> io::Result<()>, most: usize) -> Result<Self> {
        let mut start = [0; 8];
        read(&mut start).map_err(cut)?;
        ensure!(start.starts_with(MAGIC), NO_NPY);
        let mut size = [0; 4];
        let bytes_of_size = if start[6] == 1 { 2 } else { 4 };
        read(&mut size[..bytes_of_size]).map_err(cut)?;
        let size = u32::from_le_bytes(size) as usize;
        ensure!(size <= most, "has a header of {size} bytes; allowed are {most}");
        let mut text = vec![0; size];
        read(&mut text).map_err(cut)?;
        let text = String::from_utf8(text).context("is no .npy file: its header is no text")?;
        let after = |key: &str| text.split_once(&format!("'{key}':")).map(|(_, rest)| rest.trim_start());
        let kind = after("descr").and_then(|rest| rest.strip_prefix('\'')?.split_once('\''));
        let order = |rest: &str| match (rest.starts_with("True"), rest.starts_with("False")) {
            (false, false) => None,
            (is_fortran, _) => Some(is_fortran),
        };
        let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split_once(')'));
        let sides = |sides: &str| {
            sides.split(',').map(str::trim).filter(|side| !side.is_empty()).map(|side| side.parse().ok()).collect()
        };
        Ok(Self {
            kind: kind.map(|(kind, _)| kind.to_string()),
            is_fortran: after("fortran_order").and_then(order),
            shape: shape.and_then(|(all, _)| sides(all)),
            length: (start.len() + bytes_of_size + size) as u64,
        })
    }
}

/// Why a header cannot be read.
fn cut(error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => anyhow!("{NO_NPY}: it ends in its header; save it anew"),
        _ => anyhow::Error::new(error).context(NO_NPY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_is_written_is_read_back() {
        for shape in [vec![5], vec![12, 345, 6789], vec![1, 2, 3, 4]] {
            let bytes = header_of_bytes(&shape);
            assert_eq!(bytes.len() % 64, 0);
            let mut rest = &bytes[..];
            let read = Header::read(&mut |into| io::Read::read_exact(&mut rest, into), 1 << 10).unwrap();
            let length = bytes.len() as u64;
            let kind = Some("|u1".to_string());
            assert_eq!(read, Header { kind, is_fortran: Some(false), shape: Some(shape), length });
        }
    }
}
