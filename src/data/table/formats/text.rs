//! Manifests as text: what is not UTF-8 is named for what it seems to be.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::data::file_kind;
use crate::fs::open_plain;

/// Read ahead; the dialect of a CSV is told from this much.
const SAMPLE: usize = 64 << 10;
/// The byte-order mark of UTF-8.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

/// The beginning of a file.
///
/// # Errors
/// It cannot be read.
pub(super) fn head(path: &Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    open_plain(path)?.take(SAMPLE as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether text begins so, past byte-order mark and blanks.
pub(super) fn starts_with(head: &[u8], wanted: &[u8]) -> bool {
    head.strip_prefix(MARK).unwrap_or(head).trim_ascii_start().starts_with(wanted)
}

/// What a text file is to be, for messages.
#[derive(Clone, Copy)]
pub(super) struct Meant {
    pub kind: &'static str,
    /// What stands in each row.
    pub rows: &'static str,
}

/// Of a file of which it is not known what it is to be.
const TEXT: Meant = Meant { kind: "file of text", rows: "a text or a place" };
/// A manifest.
const MANIFEST: Meant = Meant { kind: "manifest", rows: "an image and a report" };

/// Opens a manifest that is text, past its byte-order mark.
///
/// # Errors
/// It cannot be read, or is plainly something else than text.
pub(super) fn open(path: &Path) -> Result<impl BufRead + use<>> {
    open_as(path, MANIFEST)
}

/// [`open`] for a file that is to be something else.
///
/// # Errors
/// As there.
pub(super) fn open_as(path: &Path, Meant { kind: meant, rows }: Meant) -> Result<impl BufRead + use<>> {
    let mut file = open_plain(path)?;
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
        bail!("is a Git LFS pointer, not the {meant}; run `git lfs pull`");
    }
    ensure!(!head.trim_ascii().is_empty(), "is empty; a {meant} names {rows} in each row");
    if let Some(kind) = file_kind(&head) {
        bail!("is {kind}, not a {meant}, which names {rows} in each row");
    }
    if head.starts_with(MARK) {
        head.drain(..MARK.len());
    }
    Ok(BufReader::with_capacity(SAMPLE, std::io::Cursor::new(head).chain(file)))
}

/// Longest line of JSON, which takes up to forty times as much once it is parsed; no report is longer.
pub(super) const MOST_LINE: u64 = 4 << 20;

/// Reads the next line, its end included; `false` where there is none.
///
/// # Errors
/// It cannot be read, or is too long.
pub(super) fn next_line(source: &mut dyn BufRead, line: &mut Vec<u8>) -> Result<bool> {
    line.clear();
    source.take(MOST_LINE + 1).read_until(b'\n', line).context("cannot be read")?;
    ensure!(line.len() as u64 <= MOST_LINE, "has a line of more than {MOST_LINE} bytes");
    Ok(!line.is_empty())
}

/// Why a text is not UTF-8, by its first line that is not; `None` where all are, or one is too long to be looked at.
pub fn why_not_utf8(path: &Path) -> Option<String> {
    let mut source = match open_as(path, TEXT) {
        Ok(source) => source,
        Err(e) => return Some(format!("{e:#}")),
    };
    let mut line = Vec::new();
    for number in 1.. {
        if !next_line(&mut source, &mut line).ok()? {
            break;
        }
        if let Err(e) = std::str::from_utf8(&line) {
            return Some(not_utf8(&line, e.valid_up_to(), number));
        }
    }
    None
}

/// Message about bytes that are not UTF-8 from `valid` on; the first of `bytes` stands on line `line`.
pub(super) fn not_utf8(bytes: &[u8], valid: usize, line: u64) -> String {
    let line = line + bytes[..valid].iter().filter(|&&b| b == b'\n').count() as u64;
    // From where the line begins: the first byte that is not UTF-8 may be the second one of a character.
    let start = bytes[..valid].iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
    let own = bytes[start..].split_inclusive(|&b| b == b'\n').next().unwrap_or_default();
    let (seems, how) = match common_characters(own) {
        None => ("Latin-1 or another old encoding", "`iconv -f ISO-8859-1 -t UTF-8`"),
        Some(CERTAIN_PAIRS..) => ("GB18030 (GBK)", "`iconv -f GB18030 -t UTF-8`"),
        Some(_) => (
            "Latin-1 or GB18030 (GBK)",
            "`iconv -f ISO-8859-1 -t UTF-8` or `iconv -f GB18030 -t UTF-8`, whichever gives the words that you know",
        ),
    };
    format!("line {line} is not UTF-8; it seems to be {seems}; convert the file with {how}")
}

/// So many common characters of a line that all may be Chinese are hardly anything else: a word of Latin-1 may have two
/// letters above ASCII side by side, as "Größe" has.
const CERTAIN_PAIRS: usize = 4;

/// How many of GB 2312's Chinese characters a line has, where all of it may be GB18030; its last one may be cut.
fn common_characters(line: &[u8]) -> Option<usize> {
    let (mut rest, mut common) = (line, 0);
    loop {
        rest = match rest {
            [] | [0x81..=0xfe] | [0x81..=0xfe, b'0'..=b'9'] | [0x81..=0xfe, b'0'..=b'9', 0x81..=0xfe] => {
                return Some(common);
            }
            [0..=0x7f, rest @ ..]
            | [0x81..=0xfe, b'0'..=b'9', 0x81..=0xfe, b'0'..=b'9', rest @ ..]
            | [0x81..=0xfe, 0x40..=0x7e | 0x80..=0xa0, rest @ ..]
            | [0x81..=0xaf | 0xf8..=0xfe, 0xa1..=0xfe, rest @ ..] => rest,
            [0xb0..=0xf7, 0xa1..=0xfe, rest @ ..] => {
                common += 1;
                rest
            }
            _ => return None,
        };
    }
}
