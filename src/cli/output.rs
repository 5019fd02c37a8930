//! Writing to stdout and stderr without falling over when nobody reads.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde_json::Value;

use crate::error::visible;

/// Characters that a line of talk has at most: what is repeated of a file may be of any length.
const LINE: usize = 490;

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
    // Texts of files and their names are among the results.
    let moves = |c: char| c.is_control() && c != '\n' && c != '\t';
    let lines: Vec<_> =
        text.split('\n').map(|l| if l.contains(moves) { visible(l, usize::MAX) } else { l.into() }).collect();
    write(&lines.join("\n"))
}

fn write(text: &str) -> Result<()> {
    shown(&writeln!(std::io::stdout().lock(), "{text}"))
}

/// What became of writing to stdout.
///
/// # Errors
/// It cannot be written to, though somebody reads.
pub(super) fn shown(written: &std::io::Result<()>) -> Result<()> {
    match written {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            // By its kind: what the system says of a full disk is followed by a hint about runs.
            bail!("stdout cannot be written to ({}); not all results were printed", e.kind())
        }
        _ => Ok(()),
    }
}

/// A result as one line of JSON.
pub(super) fn print_json(value: &Value) -> Result<()> {
    if SILENT.load(Ordering::Relaxed) {
        return Ok(());
    }
    // JSON has escapes of its own; those above U+001F are left to whoever writes it.
    let text = value.to_string();
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    write(&escaped)
}

/// How far work is that takes long, on stderr; indicatif hides it where that is no terminal.
pub(super) fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg} {elapsed}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar.with_finish(ProgressFinish::AndClear)
}

/// `error: …` on stderr.
pub(super) fn error(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "error: {}", visible(line, LINE));
}

/// What clap says of arguments, which it repeats as they are.
pub(super) fn usage(text: &str) {
    let lines: Vec<String> = text.lines().map(|line| visible(line, LINE)).collect();
    let _ = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
}

/// Where talk goes: stderr, a line at a time, each short and visible as an error is.
pub(super) struct Talk;

impl Write for Talk {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = talk(&text, std::io::IsTerminal::is_terminal(&std::io::stderr()));
        // A stderr that is full or closed is no reason to stop.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Levels as the subscriber writes them at the start of a line, as lines of progress and errors have them, and their
/// colours.
const LEVELS: [(&str, &str, u8); 5] = [
    ("ERROR ", "error:", 31),
    ("WARN ", "warning:", 33),
    ("INFO ", "info:", 32),
    ("DEBUG ", "debug:", 34),
    ("TRACE ", "trace:", 35),
];

/// A line of the subscriber's, short and visible; with `colours` its level has one.
fn talk(text: &str, colours: bool) -> String {
    let line = visible(text.strip_suffix('\n').unwrap_or(text), LINE);
    let split = |&(level, word, colour)| Some((line.trim_start().strip_prefix(level)?, word, colour));
    match LEVELS.iter().find_map(split) {
        Some((rest, word, colour)) if colours => format!("\x1b[{colour}m{word}\x1b[0m {rest}"),
        Some((rest, word, _)) => format!("{word} {rest}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talk_is_short_and_visible_at_a_terminal_too() {
        let text = format!(" WARN a\x1b[2J\u{202e}WARN{}\n", "x".repeat(1 << 20));
        let (plain, coloured) = (talk(&text, false), talk(&text, true));
        assert!(plain.starts_with("warning: a\\u{1b}[2J\\u{202e}WARN"), "{plain}");
        // The word is a little longer than the level.
        assert!(plain.chars().count() <= LINE + 3, "{plain}");
        assert_eq!(coloured, plain.replacen("warning:", "\x1b[33mwarning:\x1b[0m", 1));
        assert_eq!(talk("of INFO\n", true), "of INFO", "a word of the message");
    }
}
