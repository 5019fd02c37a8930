//! Readers of what is unpacked on the way: a few bytes may unpack to any number.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// A reader of at most so many bytes; more is an error, not an end.
pub(super) struct Bounded<R> {
    source: R,
    left: u64,
    most: u64,
}

impl<R: Read> Bounded<R> {
    pub fn new(source: R, most: u64) -> Self {
        Self { source, left: most, most }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(format!("unpacks to more than {} MiB", self.most >> 20)))?;
        Ok(count)
    }
}

/// A reader of rows of at most so many bytes each; who reads sets the count back after each row.
pub(super) struct OfRows<R> {
    source: R,
    /// Bytes since the last row.
    pub row: Rc<Cell<u64>>,
    most: u64,
}

impl<R: Read> OfRows<R> {
    pub fn new(source: R, most: u64) -> Self {
        Self { source, row: Rc::default(), most }
    }
}

impl<R: Read> Read for OfRows<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.row.get() > self.most {
            return Err(io::Error::other(format!("has a row of more than {} bytes; is a quote missing?", self.most)));
        }
        let count = self.source.read(buffer)?;
        self.row.set(self.row.get() + count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_is_allowed_is_an_error() {
        let read = |most| Bounded::new(&[1u8; 10][..], most).read_to_end(&mut Vec::new());
        assert_eq!(read(10).unwrap(), 10);
        assert!(read(9).unwrap_err().to_string().contains("unpacks to more"));
        let mut rows = OfRows::new(io::repeat(b'a'), 100);
        assert!(io::copy(&mut rows, &mut io::sink()).unwrap_err().to_string().contains("a row of more than 100"));
        rows.row.set(0);
        assert_eq!(rows.read(&mut [0; 50]).unwrap(), 50);
    }
}
