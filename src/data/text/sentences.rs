//! Sentences of a report. English and Chinese.

/// Words that end in a full stop which ends no sentence.
const ABBREVIATIONS: [&str; 24] = [
    "dr", "mr", "mrs", "ms", "prof", "st", "vs", "e.g", "i.e", "eg", "ie", "no", "approx", "ca", "cf", "fig", "resp",
    "cm", "mm", "a.m", "p.m", "pt", "incl", "max",
];

/// Sentences, without the numbers of list items. A stop within a number, after an abbreviation or an initial ends none.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|&(_, c)| c);
        let ends = match c {
            '。' | '！' | '？' | '；' | '!' | '?' | '\n' => true,
            '.' => next.is_none_or(char::is_whitespace) && !is_abbreviation(&text[start..at], next, &text[at + 1..]),
            _ => false,
        };
        if ends {
            push_sentence(&text[start..at + c.len_utf8()], &mut found);
            start = at + c.len_utf8();
        }
    }
    push_sentence(&text[start..], &mut found);
    found
}

fn is_abbreviation(before: &str, next: Option<char>, after: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    let lower = word.to_lowercase();
    // The number of a list item, taken off with the sentence that follows it.
    let item = before.trim().len() == word.len() && word.chars().all(|c| c.is_ascii_digit()) && !word.is_empty();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    // "3 cm. The" ends, "3 cm. in" does not.
    let goes_on = after.trim_start().chars().next().is_some_and(char::is_lowercase);
    let unit = matches!(lower.as_str(), "cm" | "mm" | "no" | "max");
    let known = ABBREVIATIONS.contains(&lower.as_str());
    next.is_some() && (item || initial || (known && (!unit || goes_on)))
}

fn push_sentence<'a>(text: &'a str, found: &mut Vec<&'a str>) {
    let mut text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    if digits > 0 && digits <= 2 {
        let rest = &text[digits..];
        let marked = [". ", ") ", "、", ".\n", "．"].iter().find_map(|mark| rest.strip_prefix(mark));
        text = marked.map_or(text, str::trim);
    }
    let text = text.trim_start_matches(['-', '*', '•']).trim();
    if text.chars().any(char::is_alphanumeric) {
        found.push(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_of_both_languages() {
        let english = "1. Nodule of 1.5 cm. in the left lobe, seen by Dr. X. Unchanged vs. prior? 2. No effusion.\n\
                       - Heart normal";
        assert_eq!(
            sentences(english),
            ["Nodule of 1.5 cm. in the left lobe, seen by Dr. X. Unchanged vs. prior?", "No effusion.", "Heart normal"]
        );
        assert_eq!(sentences("1、右下肺斑片影。2、心影不大；未见积液"), ["右下肺斑片影。", "心影不大；", "未见积液"]);
        assert_eq!(sentences("Width 3 cm. The rest is normal."), ["Width 3 cm.", "The rest is normal."]);
        assert!(sentences(" . \n").is_empty());
    }
}
