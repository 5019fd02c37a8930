//! Whether things are the same, by their content: one rule for all that is kept and used again, such as prepared
//! folders, features, sweeps, resumed runs and indexes.
//!
//! A file is the SHA-256 of its bytes. Where all files that are looked at together have more than [`WHOLE`] bytes, and
//! reading them would take longer than what is saved, a file is its length and parts of it: its beginning, middle and
//! end, or of one above 64 MiB 64 parts all over it. Times are left out: a copy is the same.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Tensor;
use sha2::{Digest, Sha256};

use crate::fs::open_plain;

/// Up to so many bytes in all, files are read whole: 16 GiB.
pub const WHOLE: u64 = 16 << 30;

/// How much of a file is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Depth {
    /// Every byte.
    Whole,
    /// Length and parts.
    Parts,
}

impl Depth {
    /// For files that have `bytes` in all.
    pub fn of(bytes: u64) -> Self {
        Self::within(bytes, WHOLE)
    }

    /// Whole where they are not more than `most`.
    pub fn within(bytes: u64, most: u64) -> Self {
        if bytes <= most { Self::Whole } else { Self::Parts }
    }
}

/// SHA-256 over fields, each with its length, so that no two lists of fields run into one.
#[derive(Clone, Debug, Default)]
pub struct ContentHash(Sha256);

impl ContentHash {
    /// Adds a field.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds the numbers of an f32 tensor.
    ///
    /// # Errors
    /// It has another type.
    pub fn numbers(&mut self, tensor: &Tensor) -> candle_core::Result<()> {
        let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        for part in numbers.chunks(1 << 16) {
            self.field(part.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
        }
        Ok(())
    }

    /// The 32 bytes.
    pub fn bytes(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// As 64 hexadecimal digits.
    pub fn hex(self) -> String {
        hex(&self.bytes())
    }
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// The same as 64 digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// Of a file, 32 bytes.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub fn of_file(path: &Path, depth: Depth) -> io::Result<[u8; 32]> {
    let mut file = open_plain(path)?;
    let mut hash = Sha256::new();
    if depth == Depth::Whole {
        read_all(&mut file, &mut hash)?;
        return Ok(hash.finalize().into());
    }
    let length = file.metadata()?.len();
    hash.update(length.to_le_bytes());
    let (count, part) = if length <= 64 << 20 { (3, 4 << 10) } else { (64, 1 << 20) };
    let last = length.saturating_sub(part);
    let mut bytes = Vec::new();
    for i in 0..count {
        file.seek(SeekFrom::Start(last / (count - 1) * i))?;
        bytes.clear();
        file.by_ref().take(part).read_to_end(&mut bytes)?;
        hash.update(&bytes);
    }
    file.seek(SeekFrom::Start(last))?;
    read_all(&mut file, &mut hash)?;
    Ok(hash.finalize().into())
}

/// A file's SHA-256 in hex digits.
///
/// # Errors
/// It cannot be read.
pub fn sha256_of(path: &Path) -> io::Result<String> {
    of_file(path, Depth::Whole).map(|sum| hex(&sum))
}

/// Whether a text is the hex digits of a SHA-256.
pub fn is_sha256(text: &str) -> bool {
    is_hex(text, 64)
}

/// Whether a text is so many lower-case hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Of a file, or of all files of a folder at any depth with their names there.
///
/// # Errors
/// One cannot be read.
pub fn of_tree(path: &Path) -> Result<[u8; 32]> {
    let files = files(path).with_context(|| path.display().to_string())?;
    let mut bytes = 0;
    for file in &files {
        bytes += std::fs::metadata(file).with_context(|| file.display().to_string())?.len();
    }
    let mut hash = ContentHash::default();
    for file in &files {
        if path.is_dir() {
            hash.field(file.strip_prefix(path).unwrap_or(file).to_string_lossy().as_bytes());
        }
        hash.field(of_file(file, Depth::of(bytes)).with_context(|| file.display().to_string())?);
    }
    Ok(hash.bytes())
}

/// The files at `path`, those of folders inside included, in the order of their names.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?.map(|e| Ok(e?.path())).collect::<io::Result<_>>()?;
    entries.sort();
    let inside = entries.iter().map(|entry| files(entry)).collect::<io::Result<Vec<_>>>()?;
    Ok(inside.concat())
}

fn read_all(file: &mut File, hash: &mut Sha256) -> io::Result<()> {
    let mut part = vec![0; 256 << 10];
    loop {
        match file.read(&mut part)? {
            0 => return Ok(()),
            n => hash.update(&part[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn every_byte_counts_while_there_are_few_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let of = |depth| of_file(&path, depth).unwrap();
        let (whole, parts) = (of(Depth::Whole), of(Depth::Parts));
        assert_eq!(hex(&whole), of_bytes(&vec![7; 100_000]));
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"x", 70_001).unwrap();
        assert_ne!(of(Depth::Whole), whole, "same length");
        assert_eq!(of(Depth::Parts), parts, "what parts are made for");
        file.write_all_at(b"x", 99_999).unwrap();
        assert_ne!(of(Depth::Parts), parts, "the end is looked at");
        file.write_all_at(&[7], 99_999).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(of(Depth::Parts), parts, "a copy has another time");
        assert_eq!((Depth::of(WHOLE), Depth::of(WHOLE + 1)), (Depth::Whole, Depth::Parts));
    }

    #[test]
    fn who_waits_for_a_pipe_reads_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (path, depth) in [(pipe.as_path(), Depth::Whole), (Path::new("/dev/zero"), Depth::Parts)] {
            assert_eq!(of_file(path, depth).unwrap_err().to_string(), "is no regular file");
        }
        assert!(format!("{:#}", of_tree(&pipe).unwrap_err()).ends_with("pipe: is no regular file"));
    }

    #[test]
    fn large_files_are_looked_at_all_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let file = File::create(&path).unwrap();
        file.set_len(100 << 20).unwrap();
        let before = of_file(&path, Depth::Parts).unwrap();
        file.write_at(b"x", (99 << 20) / 63 * 32 + 7).unwrap();
        assert_ne!(of_file(&path, Depth::Parts).unwrap(), before);
    }

    #[test]
    fn fields_do_not_run_into_one_another() {
        let of = |fields: &[&str]| {
            let mut hash = ContentHash::default();
            fields.iter().for_each(|field| hash.field(field));
            hash.hex()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }
}
