//! Manifests as text: what is not UTF-8 is named for what it seems to be.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::manifest::{Columns, Take, json_fields};

/// Read ahead; the dialect of a CSV is told from this much.
const SAMPLE: usize = 64 << 10;

/// Opens a text file, past its byte-order mark.
///
/// # Errors
/// It cannot be read, or is plainly something else than text.
pub(super) fn open(path: &Path) -> Result<impl BufRead + use<>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(SAMPLE as u64).read_to_end(&mut head)?;
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        bail!("is UTF-16; save it as UTF-8 (in Excel: \"CSV UTF-8\")");
    }
    if head.starts_with(b"PK\x03\x04") {
        bail!("is a zip or Excel file; save the sheet as \"CSV UTF-8\"");
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        bail!("is compressed; unpack it with `gunzip`");
    }
    if head.starts_with(b"version https://git-lfs") {
        bail!("is a Git LFS pointer, not the manifest; run `git lfs pull`");
    }
    if head.starts_with(b"\xef\xbb\xbf") {
        head.drain(..3);
    }
    Ok(BufReader::with_capacity(SAMPLE, std::io::Cursor::new(head).chain(file)))
}

/// Hands the objects of a JSONL file to `take`.
pub(super) fn read_jsonl(mut source: impl BufRead, columns: &Columns, take: &mut Take) -> Result<()> {
    let (mut bytes, mut line, mut records) = (Vec::new(), 0u64, 0u64);
    loop {
        bytes.clear();
        if source.read_until(b'\n', &mut bytes).context("cannot be read")? == 0 {
            break;
        }
        line += 1;
        let text = match std::str::from_utf8(&bytes) {
            Ok(text) => text.trim(),
            Err(e) => bail!("{}", not_utf8(&bytes, e.valid_up_to(), line)),
        };
        if !text.is_empty() {
            take(line, json_fields(text, columns));
            records += 1;
        }
    }
    if records == 0 {
        bail!("has no rows");
    }
    Ok(())
}

/// Message about bytes that are not UTF-8 from `valid` on; the first of `bytes` stands on line `line`.
pub(super) fn not_utf8(bytes: &[u8], valid: usize, line: u64) -> String {
    let line = line + bytes[..valid].iter().filter(|&&b| b == b'\n').count() as u64;
    let rest = bytes[valid..].split(|&b| b == b'\n').next().unwrap_or_default();
    let name = if is_gb18030(rest) { "GB18030" } else { "ISO-8859-1" };
    let seems = if name == "GB18030" { "GB18030 (GBK)" } else { "Latin-1 or another old encoding" };
    format!("line {line} is not UTF-8; it seems to be {seems}; convert the file with `iconv -f {name} -t UTF-8`")
}

/// Whether all bytes above ASCII come in pairs as Chinese characters of GB 2312 have them, which a European text in
/// Latin-1 does not.
fn is_gb18030(line: &[u8]) -> bool {
    line.split(|b| b.is_ascii())
        .filter(|run| !run.is_empty())
        .all(|run| run.len() % 2 == 0 && run.iter().all(|&b| b >= 0xa1))
}
