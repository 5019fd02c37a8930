//! The opposites of a report's sentences.

use std::ops::Range;

use super::super::sections::sentences;
use super::opposite::Opposite;
use super::{chinese, english};

/// An opposite of one sentence of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentenceOpposite {
    /// Bytes of the report that the sentence takes.
    pub place: Range<usize>,
    /// What says the opposite of it.
    pub opposite: Opposite,
}

/// Every opposite that the rules are sure about, sentence after sentence.
///
/// ```
/// use reportclip::data::{OppositeKind, opposites};
///
/// let found = opposites("Heart size is normal. No pleural effusion. Possible pneumonia.");
/// assert_eq!(found[1].opposite.text, "Pleural effusion.");
/// assert_eq!((found.len(), found[0].opposite.kind), (2, OppositeKind::Negation));
/// ```
pub fn opposites(report: &str) -> Vec<SentenceOpposite> {
    let sentences = sentences(report);
    let mut found = Vec::new();
    for (i, &sentence) in sentences.iter().enumerate() {
        let start = sentence.as_ptr() as usize - report.as_ptr() as usize;
        let others: Vec<&str> = sentences.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, s)| *s).collect();
        let is_chinese = sentence.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        let opposites =
            if is_chinese { chinese::opposites(sentence, &others) } else { english::opposites(sentence, &others) };
        let place = start..start + sentence.len();
        found.extend(opposites.into_iter().map(|opposite| SentenceOpposite { place: place.clone(), opposite }));
    }
    found
}

/// The report with the opposite in place of its sentence.
pub fn with_opposite(report: &str, found: &SentenceOpposite) -> String {
    format!("{}{}{}", &report[..found.place.start], found.opposite.text, &report[found.place.end..])
}
