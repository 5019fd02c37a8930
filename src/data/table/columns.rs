//! What the columns of a manifest are called.

use anyhow::{Result, bail, ensure};

use crate::data::ReportPolicy;
use crate::data::config::{BagBy, DataConfig, OnBadImage};
use crate::error::{did_you_mean, shown};

/// Which columns hold what, how a text file is cut into columns, and what of a report is read.
#[derive(Clone, Debug)]
pub struct Columns {
    /// Image paths.
    pub image: String,
    /// Reports.
    pub report: String,
    /// Patients; used if there.
    pub patient_id: String,
    /// Studies; used if there.
    pub study_id: String,
    /// Splits; used if there.
    pub split: String,
    /// Labels; used if there.
    pub label: String,
    /// Columns beside these whose values are wanted: findings, subgroups. Empty where a manifest lacks one.
    pub extra: Vec<String>,
    /// How a row names several images.
    pub bag: BagColumns,
    /// `None` = read it off the header.
    pub separator: Option<u8>,
    /// What of each report is read.
    pub policy: ReportPolicy,
}

/// How rows name several images of one report.
#[derive(Clone, Debug)]
pub struct BagColumns {
    /// Between them; empty for nothing.
    pub separator: String,
    /// What is one report with its images.
    pub by: BagBy,
    /// What becomes of a bag one of whose images is not there.
    pub on_bad: OnBadImage,
}

impl Default for BagColumns {
    fn default() -> Self {
        Self { separator: ";".into(), by: BagBy::Row, on_bad: OnBadImage::Row }
    }
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            image: "image".into(),
            report: "report".into(),
            patient_id: "patient_id".into(),
            study_id: "study_id".into(),
            split: "split".into(),
            label: "label".into(),
            extra: Vec::new(),
            bag: BagColumns::default(),
            separator: None,
            policy: ReportPolicy::default(),
        }
    }
}

impl Columns {
    /// The names of the columns of one text each, in the order of `Field`.
    pub(super) fn named(&self) -> [&str; 6] {
        [&self.image, &self.report, &self.patient_id, &self.study_id, &self.split, &self.label]
    }

    /// The names of those that a manifest must have.
    pub(super) fn required(&self) -> impl Iterator<Item = &str> {
        let study = (self.bag.by == BagBy::Study).then_some(&self.study_id);
        [&self.image, &self.report].into_iter().chain(study).map(String::as_str)
    }
}

impl From<&DataConfig> for Columns {
    fn from(c: &DataConfig) -> Self {
        Self {
            image: c.image_column.clone(),
            report: c.report_column.clone(),
            patient_id: c.patient_id_column.clone(),
            study_id: c.study_id_column.clone(),
            split: c.split_column.clone(),
            label: c.label_column.clone(),
            extra: Vec::new(),
            bag: BagColumns { separator: c.bag.separator.clone(), by: c.bag.by, on_bad: c.bag.on_bad },
            separator: c.separator.byte(),
            policy: ReportPolicy::default(),
        }
    }
}

/// Names that a message lists, and the longest text that may be one.
const LISTED: usize = 24;

/// Message about a column that a manifest must have. `known` are the cells of what should be the header: where none of
/// them is a name that is asked for, they may be a row with somebody's report, and are not shown.
pub(super) fn missing_column(name: &str, known: &[&str], columns: &Columns) -> String {
    let wanted = columns.named();
    let close = similar(name, known);
    let is_header = known.iter().any(|cell| wanted.iter().any(|name| name.eq_ignore_ascii_case(cell)));
    let hint = match close {
        Some(close) => format!("did you mean {close:?}?"),
        None if columns.bag.by == BagBy::Study && name == columns.study_id => {
            "data.bag.by = \"study_id\" (--bag-by) needs it; name it with data.study_id_column".to_string()
        }
        None => "name it with data.image_column or data.report_column, or pick the separator with data.separator"
            .to_string(),
    };
    format!(
        "there is no column {name:?}, only {}; {hint}",
        names_of(known, is_header, &[&columns.image, &columns.report])
    )
}

/// The cell of a header that may be meant by `name`: the same but for case, else a close one.
pub(in crate::data) fn similar<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let same = known.iter().copied().find(|cell| cell.eq_ignore_ascii_case(name));
    same.or_else(|| did_you_mean(name, known.iter().copied().filter(|cell| cell.len() <= name.len() + LISTED)))
}

/// Where among `known`, the cells of a header, the columns `names` stand, of which one is enough.
///
/// # Errors
/// None is there, one is there twice or in other case only.
pub(super) fn positions<const N: usize>(known: &[&str], names: [&str; N]) -> Result<[Option<usize>; N]> {
    let mut at = [None; N];
    for (at, name) in at.iter_mut().zip(names) {
        let mut called_so = (0..known.len()).filter(|&i| known[i] == name);
        *at = called_so.next();
        ensure!(called_so.next().is_none(), "there are two columns {name:?}; rename one");
        let other = known.iter().find(|cell| at.is_none() && cell.eq_ignore_ascii_case(name));
        ensure!(other.is_none(), "there is no column {name:?}; did you mean {:?}?", other.unwrap_or(&""));
    }
    if at.iter().all(Option::is_none) {
        let close = names.iter().find_map(|name| similar(name, known));
        let hint = close.map_or("name one of them so".into(), |close| format!("did you mean {close:?}?"));
        bail!("has no column {}; {hint}", names.join(" or "));
    }
    Ok(at)
}

/// The cells of a header for a message, or how many they are where they may be a row.
pub(in crate::data) fn names_of(cells: &[&str], is_header: bool, wanted: &[&str]) -> String {
    if is_header {
        let more = if cells.len() > LISTED { ", …" } else { "" };
        let names: Vec<String> = cells.iter().take(LISTED).map(|cell| shown(cell)).collect();
        return names.join(", ") + more;
    }
    let wanted = wanted.join(" and ");
    format!(
        "{} others, which are not shown since they may be a row (is the header with {wanted} missing?)",
        cells.len()
    )
}
