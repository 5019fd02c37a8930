//! A sentence as its words in small letters, with where each stands.

use std::ops::Range;

/// Words of letters and digits.
pub(super) struct Sentence<'a> {
    pub text: &'a str,
    pub words: Vec<Word>,
}

/// One of them.
pub(super) struct Word {
    /// In small letters.
    pub lower: String,
    /// Bytes of the sentence.
    pub place: Range<usize>,
}

impl<'a> Sentence<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut words: Vec<Word> = Vec::new();
        let mut start = None;
        for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
            if c.is_alphanumeric() {
                start.get_or_insert(at);
            } else if let Some(start) = start.take() {
                words.push(Word { lower: text[start..at].to_lowercase(), place: start..at });
            }
        }
        Self { text, words }
    }

    /// Word number `i`; nothing where there is none.
    pub fn word(&self, i: usize) -> &str {
        self.words.get(i).map_or("", |word| word.lower.as_str())
    }

    /// Whether a word is among `list`.
    pub fn has(&self, list: &str) -> bool {
        self.places(list).next().is_some()
    }

    /// Numbers of the words that are among `list`.
    pub fn places(&self, list: &str) -> impl Iterator<Item = usize> {
        self.words.iter().enumerate().filter(|(_, word)| is_among(list, &word.lower)).map(|(i, _)| i)
    }

    /// The number of the one word that is among `list`; `None` where there is none or several.
    pub fn only(&self, list: &str) -> Option<usize> {
        let mut places = self.places(list);
        places.next().filter(|_| places.next().is_none())
    }

    /// The sentence without words `from..to`, and what stands between them and the next.
    pub fn without(&self, words: Range<usize>) -> String {
        let start = self.words.get(words.start).map_or(self.text.len(), |word| word.place.start);
        let end = self.words.get(words.end).map_or(self.text.len(), |word| word.place.start);
        let rest = format!("{}{}", &self.text[..start], &self.text[end..]);
        if words.start == 0 { capitalised(&rest) } else { rest }
    }

    /// The sentence with `new` in place of word `i`, in capitals where that is.
    pub fn replaced(&self, i: usize, new: &str) -> String {
        let Some(word) = self.words.get(i) else { return self.text.to_string() };
        let old = &self.text[word.place.clone()];
        let shouts = old.chars().count() > 1 && old.chars().all(char::is_uppercase);
        let new = match old.chars().next() {
            _ if shouts => new.to_uppercase(),
            Some(first) if first.is_uppercase() => capitalised(new),
            _ => new.to_string(),
        };
        format!("{}{new}{}", &self.text[..word.place.start], &self.text[word.place.end..])
    }

    /// The sentence with `new` before word `i`.
    pub fn with_before(&self, i: usize, new: &str) -> String {
        let Some(word) = self.words.get(i) else { return self.text.to_string() };
        let (before, after) = self.text.split_at(word.place.start);
        if i > 0 {
            return format!("{before}{new} {after}");
        }
        // "Left effusion" goes on small; "CT" and "PICC" stay as they are.
        let mut chars = after.chars();
        let first = chars.next().map_or(String::new(), |c| c.to_lowercase().to_string());
        let small = chars.clone().next().is_none_or(|c| !c.is_uppercase());
        let rest = if small { format!("{first}{}", chars.as_str()) } else { after.to_string() };
        format!("{before}{} {rest}", if after.starts_with(char::is_uppercase) { capitalised(new) } else { new.into() })
    }
}

/// Whether `word` is one of the words of `list`, which blanks part.
pub(super) fn is_among(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|one| one == word)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}
