//! Members of a shard. The crate reads their names and attributes whole, whatever lengths these claim, so what may be
//! read of the file between two members is bounded.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

/// Most bytes of a member's headers, long names and attributes included.
const MOST_HEADERS: u64 = 64 << 10;

/// How many bytes may be read before the next member comes.
#[derive(Default)]
pub(super) struct Allowance(Rc<Cell<u64>>);

impl Allowance {
    pub fn archive(&self, file: File) -> tar::Archive<Metered> {
        tar::Archive::new(Metered { file, left: Rc::clone(&self.0) })
    }

    /// All members from the first on; contents are passed over.
    pub fn members<'a>(
        &'a self,
        archive: &'a mut tar::Archive<Metered>,
    ) -> io::Result<impl Iterator<Item = io::Result<tar::Entry<'a, Metered>>>> {
        let mut entries = archive.entries_with_seek()?;
        Ok(std::iter::from_fn(move || {
            self.0.set(MOST_HEADERS);
            entries.next()
        }))
    }

    /// Lets a content of `len` bytes be read.
    pub fn content(&self, len: u64) {
        self.0.set(len);
    }
}

/// A file of which only what is allowed can be read.
pub(super) struct Metered {
    file: File,
    left: Rc<Cell<u64>>,
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            let why = format!("a member's name and attributes have more than {MOST_HEADERS} bytes");
            return Err(io::Error::other(why));
        }
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read(&mut buffer[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

impl Seek for Metered {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}
