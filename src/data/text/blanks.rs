//! The blanks that de-identification leaves.

use std::borrow::Cow;

/// `text` without the blanks of de-identification (`___`, `XXXX`, `[** … **]`, `[REDACTED]`), and without the white
/// space and brackets that are then left over.
pub fn without_blanks(text: &str) -> Cow<'_, str> {
    if !text.contains("__")
        && !text.contains("XXX")
        && !text.contains("xxx")
        && !text.contains('[')
        && !text.contains("<unk>")
    {
        return text.into();
    }
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while !rest.is_empty() {
        let after_word = kept.chars().next_back().is_some_and(char::is_alphanumeric);
        match blank(rest, after_word) {
            Some(len) => {
                changed = true;
                rest = &rest[len..];
                while kept.ends_with(' ') {
                    kept.pop();
                }
                let next = rest.trim_start_matches(' ');
                // Empty brackets go too.
                if kept.ends_with(['(', '（']) && next.starts_with([')', '）']) {
                    kept.truncate(kept.trim_end_matches(['(', '（']).trim_end_matches(' ').len());
                    rest = &next[next.chars().next().map_or(0, char::len_utf8)..];
                } else if let Some(mark) = next.chars().next().filter(|c| MARKS.contains(c)) {
                    rest = next;
                    // Of two marks that now meet, the one that ends more stays.
                    if kept.is_empty() || kept.ends_with(['.', '。']) && mark != ')' && mark != '）' {
                        rest = next[mark.len_utf8()..].trim_start_matches(' ');
                    } else if kept.ends_with([',', ';', '，', '；']) {
                        kept.pop();
                    }
                } else if kept.is_empty() || kept.ends_with(['\n', '(']) {
                    rest = next;
                } else if !next.is_empty() && !next.starts_with('\n') {
                    rest = next;
                    if text.is_ascii() || kept.ends_with(|c: char| c.is_ascii()) {
                        kept.push(' ');
                    }
                }
            }
            None => {
                let c = rest.chars().next().unwrap_or_default();
                kept.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    if changed { kept.trim().to_string().into() } else { text.into() }
}

/// Marks that move up to the word before.
const MARKS: [char; 9] = ['.', ',', ';', ':', ')', '。', '，', '；', '）'];

/// Length of the blank that `text` begins with.
fn blank(text: &str, after_word: bool) -> Option<usize> {
    let run = |c: char| text.len() - text.trim_start_matches(c).len();
    let next_is_word = |len: usize| text[len..].chars().next().is_some_and(char::is_alphanumeric);
    match text.chars().next()? {
        '_' if run('_') >= 2 => Some(run('_')),
        // Not the end of a word, and more than a chromosome.
        c @ ('X' | 'x') if !after_word && run(c) >= 3 && !next_is_word(run(c)) => Some(run(c)),
        '<' if text.starts_with("<unk>") => Some(5),
        '[' => {
            let end = text.char_indices().take(80).find(|&(_, c)| c == ']' || c == '\n').filter(|&(_, c)| c == ']')?.0;
            let inside = &text[1..end];
            let marked = inside.starts_with("**")
                || (inside.len() > 3 && inside.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c == ' '));
            marked.then_some(end + 1)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_go_without_a_trace() {
        for (text, wanted) in [
            ("compared to ___ .", "compared to."),
            ("___ year old with XXXX pain", "year old with pain"),
            ("from [**2019-01-02**], unchanged", "from, unchanged"),
            ("Dr. ___ (___) was told.", "Dr. was told."),
            ("XXXX, no change. XXXX.", "no change."),
            ("seen by [NAME] today", "seen by today"),
            ("与____片比较", "与片比较"),
            ("a plain text [see note] XX", "a plain text [see note] XX"),
            ("foxxx", "foxxx"),
        ] {
            assert_eq!(without_blanks(text), wanted, "{text:?}");
        }
    }
}
