//! What the columns of a manifest are called.

use crate::data::ReportPolicy;
use crate::data::config::DataConfig;
use crate::error::did_you_mean;

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
    /// `None` = read it off the header.
    pub separator: Option<u8>,
    /// What of each report is read.
    pub policy: ReportPolicy,
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
            separator: None,
            policy: ReportPolicy::default(),
        }
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
            separator: c.separator.byte(),
            policy: ReportPolicy::default(),
        }
    }
}

/// Message about a column that a manifest must have.
pub(super) fn missing_column(name: &str, known: &[&str]) -> String {
    let hint = match did_you_mean(name, known.iter().copied()) {
        Some(close) => format!("did you mean {close:?}?"),
        None => "name it with data.image_column or data.report_column, or pick the separator with data.separator"
            .to_string(),
    };
    format!("there is no column {name:?}, only {}; {hint}", known.join(", "))
}
