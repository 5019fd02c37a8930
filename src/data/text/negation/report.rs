//! The opposites of a report's sentences.

use std::ops::Range;

use super::super::sections::{Section, parse, sentences};
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

/// Every opposite that the rules are sure about, sentence after sentence: of findings, impression and what stands
/// before any heading.
///
/// ```
/// use reportclip::data::{OppositeKind, opposites};
///
/// let found = opposites("Heart size is normal. No pleural effusion. Possible pneumonia.");
/// assert_eq!(found[1].opposite.text, "Pleural effusion.");
/// assert_eq!((found.len(), found[0].opposite.kind), (2, OppositeKind::Negation));
/// ```
pub fn opposites(report: &str) -> Vec<SentenceOpposite> {
    let of_section = |(section, text)| sentences(text).into_iter().map(move |sentence| (section, sentence));
    let all: Vec<(Section, &str)> = parse(report).into_iter().flat_map(of_section).collect();
    let mut found = Vec::new();
    for (i, &(section, sentence)) in all.iter().enumerate() {
        // What was asked, known before or done is not to be seen in the image.
        if !matches!(section, Section::Preamble | Section::Findings | Section::Impression) {
            continue;
        }
        let start = sentence.as_ptr() as usize - report.as_ptr() as usize;
        let others: Vec<&str> = all.iter().enumerate().filter(|(k, _)| *k != i).map(|(_, (_, s))| *s).collect();
        let is_chinese = sentence.chars().any(|c| ('\u{4e00}'..='\u{9fff}').contains(&c));
        let opposites =
            if is_chinese { chinese::opposites(sentence, &others) } else { english::opposites(sentence, &others) };
        let place = start..start + sentence.len();
        found.extend(opposites.into_iter().map(|opposite| SentenceOpposite { place: place.clone(), opposite }));
    }
    found
}

/// Those opposites of a report whose sentences lie whole in `part` of it, with places in that. The whole report says
/// whether the other side is spoken of.
pub fn opposites_of_part(report: &str, part: &str) -> Vec<SentenceOpposite> {
    let Some(start) = report.find(part) else { return Vec::new() };
    let within = |found: &SentenceOpposite| start <= found.place.start && found.place.end <= start + part.len();
    let moved = |SentenceOpposite { place, opposite }| SentenceOpposite {
        place: place.start - start..place.end - start,
        opposite,
    };
    opposites(report).into_iter().filter(within).map(moved).collect()
}

/// The report with the opposite in place of its sentence.
pub fn with_opposite(report: &str, found: &SentenceOpposite) -> String {
    format!("{}{}{}", &report[..found.place.start], found.opposite.text, &report[found.place.end..])
}

#[cfg(test)]
mod tests {
    use super::super::OppositeKind;
    use super::*;

    fn texts(found: &[SentenceOpposite]) -> Vec<&str> {
        found.iter().map(|found| found.opposite.text.as_str()).collect()
    }

    #[test]
    fn headings_are_no_part_of_sentences_and_what_is_not_seen_stays() {
        let report = "INDICATION: No fever. TECHNIQUE: No contrast abnormality. FINDINGS: No effusion.\n\
                      IMPRESSION: There is a nodule.";
        let found = opposites(report);
        assert_eq!(texts(&found), ["Effusion.", "There is no nodule."]);
        assert!(with_opposite(report, &found[0]).contains("FINDINGS: Effusion.\nIMPRESSION: There is a"));
        assert_eq!(texts(&opposites("检查所见：右肺未见积液。")), ["右肺见积液。"]);
    }

    #[test]
    fn of_a_part_the_whole_report_says_which_sides_are_spoken_of() {
        let report = "Left pleural effusion. Right basilar atelectasis. No pneumothorax.";
        let sides = |found: &[SentenceOpposite]| {
            found.iter().filter(|found| found.opposite.kind == OppositeKind::Laterality).count()
        };
        let part = &report[..22];
        assert_eq!((sides(&opposites(part)), sides(&opposites_of_part(report, part))), (1, 0));
        let found = opposites_of_part(report, "Right basilar atelectasis. No pneumothorax. ".trim());
        assert_eq!(with_opposite(&report[23..], &found[1]), "Right basilar atelectasis. Pneumothorax.");
        assert_eq!(opposites_of_part(report, "pneumothorax."), []);
    }
}
