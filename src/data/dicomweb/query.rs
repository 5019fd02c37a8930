//! QIDO-RS: which studies a query finds, and which instances a study has.

use std::collections::HashSet;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::server::Server;
use crate::http::encode;

const JSON: &str = "application/dicom+json";
/// Objects asked for at once; a server may give fewer.
const PAGE: usize = 500;
/// Bytes of such an answer.
const MOST_BYTES: u64 = 16 << 20;
/// Objects of one query in all.
const MOST_FOUND: usize = 1 << 20;

/// Attributes, as DICOM's JSON names them.
const SOP_CLASS: &str = "00080016";
const SOP_INSTANCE: &str = "00080018";
const STUDY: &str = "0020000D";
const SERIES: &str = "0020000E";
const SERIES_NUMBER: &str = "00200011";
const INSTANCE_NUMBER: &str = "00200013";

/// SOP classes of objects without a picture, by how they begin: presentation states, encapsulated documents, waveforms,
/// structured reports, raw data, segmentations and registrations, value maps, radiotherapy.
const WITHOUT_PICTURE: [&str; 8] = ["11.", "104.", "9.", "88.", "66", "67", "481.", "78."];
const STORAGE: &str = "1.2.840.10008.5.1.4.1.1.";

/// What studies are looked for: attributes with values, `PatientID=…&StudyDate=20250101-20250131`.
#[derive(Clone)]
pub(super) struct StudyQuery(Vec<(String, String)>);

impl std::fmt::Debug for StudyQuery {
    /// Values may be names of patients.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for StudyQuery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |part: &str| {
            let (name, value) = part.split_once('=')?;
            let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
            let ours = ["limit", "offset", "includefield"].iter().any(|word| name.eq_ignore_ascii_case(word));
            (plain && !ours).then(|| (name.to_string(), value.to_string()))
        };
        let pairs: Option<Vec<_>> = text.split('&').map(pair).collect();
        pairs.map(Self).ok_or_else(|| "allowed are attributes with values, such as PatientID=7&Modality=CR".into())
    }
}

/// One instance of a study, by UIDs that were checked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Instance {
    study: String,
    series: String,
    pub sop: String,
    class: String,
    /// Of series and instance; what has none comes first.
    numbers: (i64, i64),
}

impl Instance {
    /// Where WADO-RS has it.
    pub fn path(&self) -> String {
        format!("/studies/{}/series/{}/instances/{}", self.study, self.series, self.sop)
    }

    /// Whether its class is one that has; what the server does not say may have.
    pub fn has_picture(&self) -> bool {
        let kind = self.class.strip_prefix(STORAGE).unwrap_or_default();
        !WITHOUT_PICTURE.iter().any(|other| match other.ends_with('.') {
            true => kind.starts_with(other),
            false => kind == *other || kind.strip_prefix(other).is_some_and(|rest| rest.starts_with('.')),
        })
    }
}

/// Whether a text is a DICOM UID, which goes into addresses.
pub(super) fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && !text.starts_with('.')
}

/// UIDs of the studies that a query finds, sorted.
pub(super) fn studies_of(server: &Server, StudyQuery(pairs): &StudyQuery) -> Result<Vec<String>> {
    let mut path = format!("/studies?includefield={STUDY}");
    for (name, value) in pairs {
        path += &format!("&{name}={}", encode(value, false));
    }
    let mut found = all(server, &path, |study| uid(study, STUDY))?;
    found.sort();
    Ok(found)
}

/// The instances of a study, by their numbers.
pub(super) fn instances_of(server: &Server, study: &str) -> Result<Vec<Instance>> {
    let fields = [SOP_CLASS, SERIES, SERIES_NUMBER, INSTANCE_NUMBER].map(|field| format!("&includefield={field}"));
    let path = format!("/studies/{study}/instances?{}", fields.concat().trim_start_matches('&'));
    let mut found = all(server, &path, |value| {
        Ok(Instance {
            study: study.to_string(),
            series: uid(value, SERIES)?,
            sop: uid(value, SOP_INSTANCE)?,
            class: text(value, SOP_CLASS).unwrap_or_default(),
            numbers: (number(value, SERIES_NUMBER), number(value, INSTANCE_NUMBER)),
        })
    })?;
    found.sort_by(|a, b| (a.numbers, &a.series, &a.sop).cmp(&(b.numbers, &b.series, &b.sop)));
    Ok(found)
}

/// All that a query finds, page by page, each once: a server may count pages as it likes, or give everything at once.
fn all<T: std::fmt::Debug>(server: &Server, path: &str, read: impl Fn(&Value) -> Result<T>) -> Result<Vec<T>> {
    let (mut found, mut seen, mut offset, mut is_cut) = (Vec::new(), HashSet::new(), 0, false);
    loop {
        let reply = server.get(&format!("{path}&limit={PAGE}&offset={offset}"), JSON)?;
        if reply.status == 204 {
            return Ok(found);
        }
        is_cut |= says_cut(&reply.headers);
        let body = reply.bytes(MOST_BYTES).map_err(|why| anyhow::anyhow!("{}: {why}", server.shown))?;
        let page: Option<Vec<Value>> = serde_json::from_slice(&body).ok();
        let page = page.with_context(|| format!("{}: its answer is no list in DICOM's JSON", server.shown))?;
        let before = found.len();
        for value in &page {
            let item = read(value).with_context(|| format!("{}: an object that it found", server.shown))?;
            if seen.insert(format!("{item:?}")) {
                found.push(item);
            }
        }
        if page.is_empty() {
            return Ok(found);
        }
        // A server that does not count gives its first page for ever.
        if found.len() == before {
            ensure!(
                !is_cut && page.len() != PAGE,
                "{}: it gives {} objects and then the same again: it does not count pages (offset), and what comes \
                 behind these is not known; ask for less by --query, or name studies of fewer instances",
                server.shown,
                found.len()
            );
            tracing::warn!(
                "{}: it gives {} objects and then the same again: it does not count pages (offset), and these are \
                 taken for all",
                server.shown,
                found.len()
            );
            return Ok(found);
        }
        ensure!(found.len() <= MOST_FOUND, "{}: finds more than {MOST_FOUND} objects", server.shown);
        offset += page.len();
    }
}

/// Whether a server says that there is more than it gives at a time: PS3.18 has a warning 299 for that, which may be
/// one of several, in headers of their own or with commas between.
fn says_cut(headers: &[(String, String)]) -> bool {
    let warnings = headers.iter().filter(|(name, _)| name == "warning");
    warnings.flat_map(|(_, value)| value.split(',')).any(|warning| warning.trim_start().starts_with("299"))
}

/// A UID that may go into an address.
fn uid(object: &Value, tag: &str) -> Result<String> {
    text(object, tag).filter(|uid| is_uid(uid)).with_context(|| format!("has no right UID ({tag})"))
}

/// The first value of an attribute, as text.
fn text(object: &Value, tag: &str) -> Option<String> {
    object[tag]["Value"][0].as_str().map(|text| text.trim_end_matches(['\0', ' ']).to_string())
}

/// The first value as a number; some servers write it as text.
fn number(object: &Value, tag: &str) -> i64 {
    let value = &object[tag]["Value"][0];
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok()).unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_warning_may_say_that_there_is_more() {
        let says =
            |values: &[&str]| says_cut(&values.iter().map(|v| ("warning".into(), v.to_string())).collect::<Vec<_>>());
        assert!(says(&["299 pacs: more"]) && says(&["199 x \"y\"", "299 pacs: more"]) && says(&["199 x \"y\", 299 z"]));
        assert!(!says(&[]) && !says(&["199 x \"299\""]));
    }

    #[test]
    fn queries_name_attributes_and_nothing_else() {
        for good in ["PatientID=7", "PatientName=A^B*&StudyDate=20250101-20250131", "00100020=", "a.b=c=d"] {
            assert!(good.parse::<StudyQuery>().is_ok(), "{good}");
        }
        for bad in ["", "PatientID", "=7", "a b=7", "limit=5", "Offset=5", "a=1&&b=2", "../x=1", "a?b=1"] {
            assert!(bad.parse::<StudyQuery>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_goes_into_an_address_is_a_uid() {
        assert!(is_uid("1.2.840.10008") && is_uid(&"1".repeat(64)));
        for bad in ["", ".1", "1/2", "1.2.a", "..", "1 2", &"1".repeat(65)] {
            assert!(!is_uid(bad), "{bad}");
        }
    }

    #[test]
    fn objects_without_a_picture_are_known_by_their_class() {
        let of = |class: &str| Instance {
            study: "1".into(),
            series: "1".into(),
            sop: "1".into(),
            class: class.into(),
            numbers: (0, 0),
        };
        // CR, digital X-ray, secondary capture, enhanced MR, nothing.
        for image in ["1", "1.1", "7", "4.1", "6.1", "77.1.4"] {
            assert!(of(&format!("{STORAGE}{image}")).has_picture(), "{image}");
        }
        assert!(of("").has_picture());
        for other in ["88.11", "11.1", "104.1", "9.1.1", "66", "66.4", "67", "481.3"] {
            assert!(!of(&format!("{STORAGE}{other}")).has_picture(), "{other}");
        }
    }
}
