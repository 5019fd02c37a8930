//! What of a report the text tower reads: a section, without the blanks of de-identification.

use std::borrow::Cow;

use anyhow::{Context, Result};
use rand::{Rng, RngExt};
use serde_json::{Value, json};

use super::sections::{self, Section};
use crate::data::config::{Blanks, LongReports, ReportConfig, ReportSection};

/// [`ReportConfig`] under the name that data goes by.
pub type ReportPolicy = ReportConfig;

/// Why nothing of a report is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It has no word.
    Blank,
    /// It has none of the sections that are allowed, of which this is the first.
    NoSection(ReportSection),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blank => f.write_str("the report is empty but for blanks"),
            Self::NoSection(section) => write!(
                f,
                "the report has nothing for report.section = {:?} or report.fallback; add \"whole\" to the latter",
                section.word()
            ),
        }
    }
}

impl ReportConfig {
    /// What of `report` is read, as far as that is the same each time: for `random_sentence` all sentences that may be
    /// drawn.
    ///
    /// # Errors
    /// The report has none of the sections that are allowed.
    pub fn fixed(&self, report: String) -> Result<String, Unreadable> {
        let picked = std::iter::once(&self.section).chain(&self.fallback).find_map(|&part| self.pick(part, &report));
        match picked {
            Some(Cow::Owned(text)) => Ok(text),
            Some(Cow::Borrowed(text)) if text.len() == report.len() => Ok(report),
            Some(Cow::Borrowed(text)) => Ok(text.to_string()),
            None if self.section == ReportSection::Whole => Err(Unreadable::Blank),
            None => Err(Unreadable::NoSection(self.section)),
        }
    }

    /// Whether another part of a report is read each time.
    pub fn draws(&self) -> bool {
        self.section == ReportSection::RandomSentence || self.long == LongReports::Chunk
    }

    fn pick<'a>(&self, part: ReportSection, report: &'a str) -> Option<Cow<'a, str>> {
        let section = |s: Section| sections::text(report, s);
        let both = || {
            let parts = [section(Section::Findings), section(Section::Impression)];
            Some(parts.into_iter().flatten().collect::<Vec<_>>().join("\n")).filter(|text| !text.is_empty())
        };
        let text: Cow<str> = match part {
            ReportSection::Whole => report.into(),
            ReportSection::Impression => section(Section::Impression)?.into(),
            ReportSection::Findings => section(Section::Findings)?.into(),
            ReportSection::Both | ReportSection::RandomSentence => both()?.into(),
            ReportSection::Longest => {
                let parts = [section(Section::Findings), section(Section::Impression)];
                parts.into_iter().flatten().max_by_key(|text| text.chars().count())?.into()
            }
        };
        let text = match (self.blanks, text) {
            (Blanks::Keep, text) => text,
            (Blanks::Remove, Cow::Borrowed(text)) => sections::without_blanks(text),
            (Blanks::Remove, Cow::Owned(text)) => sections::without_blanks(&text).into_owned().into(),
        };
        text.chars().any(char::is_alphanumeric).then_some(text)
    }

    /// What is read of a row's report this time. `report` is what [`Self::fixed`] gave.
    pub fn draw<'a>(&self, report: &'a str, rng: &mut impl Rng) -> &'a str {
        if self.section != ReportSection::RandomSentence {
            return report;
        }
        let sentences = sections::sentences(report);
        if sentences.is_empty() { report } else { sentences[rng.random_range(0..sentences.len())] }
    }

    /// As a model's folder keeps it.
    pub fn to_json(&self) -> Value {
        json!({
            "section": self.section.word(),
            "fallback": self.fallback.iter().map(|s| s.word()).collect::<Vec<_>>(),
            "blanks": self.blanks.word(),
            "long": self.long.word(),
        })
    }

    /// From a model's folder.
    ///
    /// # Errors
    /// A word that is not known.
    pub fn from_json(json: &Value) -> Result<Self> {
        let word = |value: &Value, key: &str| -> Result<ReportSection> {
            let word = value.as_str().with_context(|| format!("{key} is not text"))?;
            ReportSection::find(word).with_context(|| format!("{key} is {word:?}, which this version does not know"))
        };
        let long = json["long"].as_str().unwrap_or("truncate");
        Ok(Self {
            section: word(&json["section"], "section")?,
            fallback: match json["fallback"].as_array() {
                Some(items) => items.iter().map(|v| word(v, "fallback")).collect::<Result<_>>()?,
                None => Vec::new(),
            },
            blanks: json["blanks"].as_str().and_then(Blanks::find).unwrap_or(Blanks::Keep),
            long: LongReports::find(long)
                .with_context(|| format!("long is {long:?}, which this version does not know"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "FINDINGS: Clear lungs. No effusion ___ seen.\nIMPRESSION: Normal.";

    fn policy(section: ReportSection, fallback: &[ReportSection]) -> ReportPolicy {
        ReportPolicy { section, fallback: fallback.to_vec(), blanks: Blanks::Remove, long: LongReports::Truncate }
    }

    #[test]
    fn sections_and_fallbacks() {
        use ReportSection::*;
        let read = |section, fallback: &[_], report: &str| policy(section, fallback).fixed(report.to_string());
        assert_eq!(read(Impression, &[], REPORT).unwrap(), "Normal.");
        assert_eq!(read(Findings, &[], REPORT).unwrap(), "Clear lungs. No effusion seen.");
        assert_eq!(read(Both, &[], REPORT).unwrap(), "Clear lungs. No effusion seen.\nNormal.");
        assert_eq!(read(Longest, &[], REPORT).unwrap(), "Clear lungs. No effusion seen.");
        assert_eq!(read(Impression, &[Findings], "FINDINGS: Clear.").unwrap(), "Clear.");
        assert_eq!(read(Impression, &[Findings, Whole], "Clear.").unwrap(), "Clear.");
        assert!(
            read(Impression, &[Findings], "Clear.")
                .unwrap_err()
                .to_string()
                .starts_with("the report has nothing for report.section = \"impression\"")
        );
        assert!(read(Whole, &[], "___ .").is_err());
    }

    #[test]
    fn sentences_are_drawn_and_all_come_up() {
        let policy = policy(ReportSection::RandomSentence, &[]);
        let fixed = policy.fixed(REPORT.to_string()).unwrap();
        let mut rng = crate::seed::stream(1, crate::seed::Purpose::Text, 0);
        let seen: std::collections::BTreeSet<&str> = (0..50).map(|_| policy.draw(&fixed, &mut rng)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["Clear lungs.", "No effusion seen.", "Normal."]);
    }

    #[test]
    fn json_keeps_all() {
        let all = ReportPolicy {
            section: ReportSection::Longest,
            fallback: vec![ReportSection::Both],
            blanks: Blanks::Remove,
            long: LongReports::Chunk,
        };
        assert_eq!(ReportPolicy::from_json(&all.to_json()).unwrap(), all);
        assert!(ReportPolicy::from_json(&json!({"section": "poem"})).is_err());
    }
}
