//! The word that a request must bring where the server is open to others.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::digest::sha256;
use crate::fs::read_up_to;

/// A secret, kept as its digest: it can be compared, and never be shown.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Fewest characters: 16 of base64 are 96 bits.
const SHORTEST: usize = 16;
/// Longest file of a token.
const MOST_BYTES: u64 = 4096;

impl Token {
    /// The token in a file: its only line.
    ///
    /// # Errors
    /// It cannot be read, or holds something else. No message repeats what it holds.
    pub fn read(path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        let bytes = read_up_to(path, MOST_BYTES)?;
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(path)?) & 0o004 != 0 {
            tracing::warn!(
                "{}: everybody on this machine can read the token; `chmod 600` keeps it its owner's",
                place()
            );
        }
        let text =
            std::str::from_utf8(&bytes).ok().map(str::trim).with_context(|| format!("{}: is no text", place()))?;
        let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            printable && text.len() >= SHORTEST,
            "{}: holds no token; wanted is one line of at least {SHORTEST} visible characters, such as `openssl rand \
             -base64 24` gives",
            place()
        );
        Ok(Self::new(text))
    }

    fn new(text: &str) -> Self {
        Self(sha256(text.as_bytes()))
    }

    /// Whether `sent` is it. Digests are compared to the end, so the time says nothing of where they differ.
    pub(super) fn is(&self, sent: &str) -> bool {
        let differs = self.0.iter().zip(Self::new(sent).0).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
        differs == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_itself_alone_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        let token = Token::read(&path).unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcdeg", "0123456789abcde", "0123456789abcdef0"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token");
        for bad in [&b"short"[..], b"", b"0123456789abcdef\nsecond line", b"\xff\xfe0123456789abcdef"] {
            std::fs::write(&path, bad).unwrap();
            let error = Token::read(&path).unwrap_err().to_string();
            assert!(!error.contains("short") && !error.contains("0123"), "{error}");
        }
    }
}
