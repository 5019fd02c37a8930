//! Errors that callers match. Everything else travels as `anyhow::Error` with context.

use std::fmt;

/// One thing that is wrong with what the user gave, as one line: what, where, the value seen, what is allowed, a hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(pub String);

/// All problems found before any work began. Leads to exit code 2.
#[derive(Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", problem.0)?;
        }
        Ok(())
    }
}

/// Stopped before the end as somebody asked, with everything saved. Leads to exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Interrupted(pub String);

/// Collects problems so that all of them are reported at once.
#[derive(Debug, Default)]
pub struct ProblemList(Vec<Problem>);

impl ProblemList {
    /// Adds one line.
    pub fn push(&mut self, line: impl Into<String>) {
        self.0.push(Problem(visible(&line.into(), LINE)));
    }

    /// Adds the error of `result`, gives its value.
    pub fn keep<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|e| self.push(one_line(&e))).ok()
    }

    /// `Err` when anything was collected.
    pub fn finish(self) -> Result<(), Problems> {
        if self.0.is_empty() { Ok(()) } else { Err(Problems(self.0)) }
    }
}

/// The error and its causes on one line. candle appends backtraces to its messages when `RUST_BACKTRACE` is set and
/// some libraries print a message over several lines: only the first line of each cause says something to a user. What
/// it repeats of somebody's file neither floods a terminal nor moves its cursor.
pub fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let line = text.lines().next().unwrap_or_default().trim();
        // A cause may begin with the file that its context named.
        let is_told = |start: &str| parts.iter().any(|part| part.split(": ").any(|told| told == start));
        let line = line.split_once(": ").filter(|(start, _)| is_told(start)).map_or(line, |(_, rest)| rest).to_string();
        // Wrappers often repeat their cause word for word; a folder called "g" repeats no word that ends so.
        let repeats =
            |last: &String| last.strip_suffix(&line).is_some_and(|rest| !rest.ends_with(char::is_alphanumeric));
        if !line.is_empty() && !parts.last().is_some_and(repeats) {
            parts.push(line);
        }
    }
    visible(&parts.join(": "), LINE)
}

/// Characters of a message: its beginning says where, its end what.
const LINE: usize = 490;

/// A line for a terminal: what would move its cursor or turn its writing shows as escapes, and of a long line its start
/// and its end, where the hint stands, `most` characters in all.
pub fn visible(line: &str, most: usize) -> String {
    let mut shown = String::new();
    line.chars().for_each(|c| push_visible(&mut shown, c));
    let length = shown.chars().count();
    if length <= most {
        return shown;
    }
    let end = most / 4;
    let start = shown.chars().take(most - end - 3);
    start.chain(" … ".chars()).chain(shown.chars().skip(length - end)).collect()
}

/// A text from a file for a message: its beginning, visible as [`visible`] makes it.
pub fn shown(text: &str) -> String {
    /// No name of a column or class that people give is longer.
    const MOST: usize = 64;
    let head: String = text.chars().take(MOST).collect();
    visible(&head, usize::MAX) + if head.len() < text.len() { "…" } else { "" }
}

/// Control characters, and those that turn the direction of writing, as escapes.
fn push_visible(line: &mut String, c: char) {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}') {
        line.extend(c.escape_default());
    } else {
        line.push(c);
    }
}

thread_local!(static CATCHING: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });

/// Runs a decoder of somebody else's on a file of somebody else's: a panic in it is an error of the file.
///
/// # Errors
/// Its own, or that it panicked.
pub fn caught<T>(decode: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let before = CATCHING.replace(true);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
    CATCHING.set(before);
    result.unwrap_or_else(|_| Err(anyhow::anyhow!("is broken in a way that the decoder did not expect")))
}

/// Whether a panic on this thread is about to become an error: also on a thread that `jpeg-decoder` started, whose end
/// the decoder takes for one.
pub fn is_catching() -> bool {
    let started = || std::thread::current().name().is_some_and(|name| name.starts_with("worker thread for component"));
    CATCHING.get() || started()
}

/// The closest of `known` to `word`, if close enough to be worth offering.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Distances take the product of both lengths, and no key is long.
    if word.len() > 200 {
        return None;
    }
    let scored = known.into_iter().map(|k| (strsim::damerau_levenshtein(word, k), k));
    scored.min().filter(|(distance, k)| *distance <= 1 + k.len().min(word.len()) / 4).map(|(_, k)| k)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_drops_backtraces_and_repeats() {
        let e = anyhow::anyhow!("shape mismatch\n   0: candle::bt").context("loading x");
        assert_eq!(one_line(&e), "loading x: shape mismatch");
        let e = anyhow::anyhow!("no space").context("writing y: no space");
        assert_eq!(one_line(&e), "writing y: no space");
        let e = anyhow::anyhow!("no such thing").context("g").context("--grounding");
        assert_eq!(one_line(&e), "--grounding: g: no such thing");
        let e = anyhow::anyhow!("a/b: no weights; looked for c").context("a/b: config.json");
        assert_eq!(one_line(&e), "a/b: config.json: no weights; looked for c");
    }

    #[test]
    fn what_a_file_says_neither_floods_nor_moves_the_cursor() {
        let long = format!("{}\u{1b}[2J\u{9b}31m\u{202e}{}", "列".repeat(300), "x".repeat(10_000_000));
        let line = one_line(&anyhow::anyhow!(long.clone()).context("manifest a.csv").context("end"));
        assert!(line.starts_with("end: manifest a.csv: 列列") && line.ends_with("xxx"), "{line}");
        assert!(line.chars().count() < 500 && !line.chars().any(char::is_control), "{line}");
        assert_eq!(shown("\u{1b}[31m\u{202e}"), "\\u{1b}[31m\\u{202e}");
        assert_eq!(shown(&long).chars().count(), 65);
        let mut list = ProblemList::default();
        list.push(long);
        assert!(list.finish().unwrap_err().to_string().chars().count() < 500);
    }

    #[test]
    fn lines_for_terminals_are_short_and_move_nothing() {
        assert_eq!(visible("a\x1b[2J\u{9b}b\0右", 99), "a\\u{1b}[2J\\u{9b}b\\u{0}右");
        assert_eq!(visible("0123456789abcdef", 12), "012345 … def");
        let long = visible(&format!("{}; allowed is 1", "\n".repeat(1 << 20)), 499);
        assert!(long.chars().count() == 499 && long.ends_with("; allowed is 1"), "{long}");
    }

    #[test]
    fn offers_only_close_words() {
        assert_eq!(did_you_mean(&"x".repeat(10_000_000), ["seed"; 100]), None, "and at once");
        assert_eq!(did_you_mean("lable_smoothing", ["seed", "label_smoothing"]), Some("label_smoothing"));
        assert_eq!(did_you_mean("banana", ["seed", "label_smoothing"]), None);
    }
}
