//! Writing to stdout and stderr without falling over when nobody reads.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use serde_json::Value;

static SILENT: AtomicBool = AtomicBool::new(false);

/// Prints no results from now on: another rank does.
pub(super) fn be_silent() {
    SILENT.store(true, Ordering::Relaxed);
}

/// A result line on stdout. A reader that left, such as `head`, is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    if SILENT.load(Ordering::Relaxed) {
        return Ok(());
    }
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A result as one line of JSON.
pub(super) fn print_json(value: &Value) -> Result<()> {
    print(&value.to_string())
}

/// `error: …` on stderr.
pub(super) fn error(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "error: {line}");
}
