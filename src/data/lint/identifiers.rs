//! What in a report looks like it names somebody: dates, record numbers, telephone numbers, names after titles.
//!
//! Says which kind, never what: the text itself goes nowhere.

use std::sync::LazyLock;

use regex::Regex;

/// A kind of identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Identifier {
    /// A calendar date.
    Date,
    /// A record, accession or other long number.
    RecordNumber,
    /// A telephone number.
    Phone,
    /// An address of electronic mail.
    Email,
    /// A name behind a title.
    Name,
}

static PATTERNS: LazyLock<Vec<(Identifier, Regex)>> = LazyLock::new(|| {
    let months = "(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*";
    let patterns = [
        (Identifier::Date, r"\b\d{1,2}[/.-]\d{1,2}[/.-](19|20)?\d{2}\b".to_string()),
        (Identifier::Date, r"\b(19|20)\d{2}\s*[-/.年]\s*\d{1,2}\s*[-/.月]\s*\d{1,2}".to_string()),
        (Identifier::Date, format!(r"(?i)\b{months}\.? \d{{1,2}},? (19|20)\d{{2}}\b")),
        (Identifier::Date, format!(r"(?i)\b\d{{1,2}} {months}\.? (19|20)\d{{2}}\b")),
        (
            Identifier::RecordNumber,
            [
                r"(?i)\b(mrn|accession|medical record|patient id|record no)[^a-z0-9\n]{0,4}",
                r"(number|no|id)?[^a-z0-9\n]{0,4}[a-z]{0,4}\d{3,}",
            ]
            .concat(),
        ),
        (
            Identifier::RecordNumber,
            r"(病历号|住院号|门诊号|影像号|检查号|登记号|病案号|病理号|身份证)[:：\s]*[A-Za-z]{0,4}\d{3,}".to_string(),
        ),
        (Identifier::RecordNumber, r"\b[A-Z]{0,3}\d{7,}\b".to_string()),
        (Identifier::Phone, r"(\+\d{1,3}[ -]?)?(\(\d{3}\) ?|\b\d{3}[ -.])\d{3}[ -.]\d{4}\b".to_string()),
        (Identifier::Phone, r"\b1[3-9]\d{9}\b".to_string()),
        (Identifier::Email, r"[A-Za-z0-9._+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}".to_string()),
        (Identifier::Name, r"\b(Dr|Mr|Mrs|Ms|Prof|Doctor|Professor)\.? +[A-Z][a-z]+".to_string()),
        (Identifier::Name, r"(姓名|患者|病人|医生|医师|主任|技师)\s*[:：]\s*\p{Han}{2,4}".to_string()),
    ];
    let compiled = patterns.into_iter().map(|(kind, text)| (kind, Regex::new(&text)));
    compiled.filter_map(|(kind, regex)| Some((kind, regex.ok()?))).collect()
});

/// The kinds that `report` seems to hold, each once.
pub fn identifiers(report: &str) -> Vec<Identifier> {
    let mut kinds: Vec<Identifier> =
        PATTERNS.iter().filter(|(_, regex)| regex.is_match(report)).map(|(kind, _)| *kind).collect();
    kinds.dedup();
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use Identifier::*;

    #[test]
    fn what_names_somebody_is_seen_and_measurements_are_not() {
        assert_eq!(PATTERNS.len(), 12, "every pattern compiles");
        for (report, kinds) in [
            ("Compared with 03/14/2019.", &[Date][..]),
            ("Compared with 2019年3月14日.", &[Date]),
            ("Seen on March 4, 2019 and 5 Mar 2020", &[Date]),
            ("MRN: 123456", &[RecordNumber]),
            ("住院号：A00123", &[RecordNumber]),
            ("Specimen 20193344", &[RecordNumber]),
            ("Called (617) 555-0123 at once", &[Phone]),
            ("13912345678 联系", &[RecordNumber, Phone]),
            ("Read by Dr. Miller", &[Name]),
            ("审核医师：张三丰", &[Name]),
            ("a.b@example.org", &[Email]),
            ("Nodule of 12 x 14 mm in T11-12, 1.5 cm, 3/6 murmur. L4-5-S1. 10:30", &[]),
            ("Dr. ___ was told on ___.", &[]),
            ("右肺上叶见结节，大小约1.2cm×0.8cm。", &[]),
        ] {
            assert_eq!(identifiers(report), kinds, "{report}");
        }
    }
}
