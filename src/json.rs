//! JSON from outside, bounded before it is parsed: a byte of text may become a value of seventy.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::fs::read_up_to;

/// Longest file: tokenizers of 250,000 tokens have 35 MB.
pub const MAX_BYTES: u64 = 64 << 20;
/// Most values; that tokenizer has two million.
const MAX_VALUES: usize = 4 << 20;

/// Parses a text; nesting is bounded by the parser.
///
/// # Errors
/// It is no JSON, or has more than four million values.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    parse_up_to(bytes, MAX_VALUES)
}

/// [`parse`] for what has up to `most` values where it is what it should be.
///
/// # Errors
/// As there.
pub fn parse_up_to(bytes: &[u8], most: usize) -> Result<Value> {
    ensure!(bytes.len() as u64 <= MAX_BYTES, "has {} bytes; allowed are {MAX_BYTES}", bytes.len());
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{')).count();
    ensure!(values <= most, "has {values} values; allowed are {most}");
    serde_json::from_slice(bytes).context("not JSON")
}

/// The object of a text: configs are nothing else, and fields are put into them.
///
/// # Errors
/// As [`parse`], or it is another value.
pub fn parse_object(bytes: &[u8]) -> Result<Value> {
    let value = parse(bytes)?;
    ensure!(value.is_object(), "not a JSON object");
    Ok(value)
}

/// The object in a file.
///
/// # Errors
/// As [`parse_object`], with the file's path.
pub fn read(path: &Path) -> Result<Value> {
    parse_object(&read_up_to(path, MAX_BYTES)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_values_and_deep_ones_are_refused() {
        let many = [&b"["[..], &b"0,".repeat(5 << 20), b"0]"].concat();
        assert!(parse(&many).unwrap_err().to_string().contains("values; allowed are"));
        assert!(parse(&b"[".repeat(100_000)).is_err());
        assert_eq!(parse(b"{\"a\": [1]}").unwrap()["a"][0], 1);
    }
}
