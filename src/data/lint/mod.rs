//! What is wrong, or may be, with a manifest, its images and its reports.
//!
//! Findings name rows by line; reports, patients and file names appear nowhere.

mod identifiers;
mod images;
mod kind;
mod page;
mod reports;
mod rows;

use anyhow::Result;
use serde::Serialize;

pub use identifiers::{Identifier, identifiers};
pub use kind::FindingKind;
pub use page::page;

use super::{Manifest, ReportTokenizer, Row};
use images::InspectedImages;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Training refuses, or figures would be wrong.
    Error,
    /// Figures or privacy may suffer.
    Warning,
    /// Good to know.
    Note,
}

/// One thing that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is.
    #[serde(rename = "code")]
    pub kind: FindingKind,
    /// Rows, or pairs of rows, that have it.
    pub count: usize,
    /// One line: what, and what to do.
    pub message: String,
    /// The first of them, `file:line`.
    pub rows: Vec<String>,
    /// Their places among the usable rows.
    #[serde(skip)]
    pub examples: Vec<usize>,
}

/// A histogram.
#[derive(Clone, Debug, Serialize)]
pub struct Histogram {
    /// What was counted.
    pub name: &'static str,
    /// Name of each bar, and how many.
    pub bars: Vec<(String, usize)>,
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub struct LintReport {
    /// The manifest.
    pub manifest: String,
    /// Usable rows.
    pub rows: usize,
    /// Distinct images, reports and patients (where the manifest names them).
    pub images: usize,
    /// As above.
    pub reports: usize,
    /// As above.
    pub patients: usize,
    /// Images that were looked into.
    pub images_looked_at: usize,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// What there is.
    pub histograms: Vec<Histogram>,
}

/// What is looked at, and against what.
#[derive(Clone, Copy, Debug)]
pub struct LintOptions<'a> {
    /// Pairs that a step will see.
    pub batch_size: usize,
    /// What will cut the reports into tokens.
    pub tokenizer: Option<&'a ReportTokenizer>,
    /// At most so many images are opened, evenly spread.
    pub max_images: usize,
    /// Whether training will flip images.
    pub flip: bool,
}

/// Rows named in a finding.
const SHOWN: usize = 10;

impl Finding {
    fn new(level: Level, kind: FindingKind, rows: &[Row], found: Vec<usize>, message: String) -> Option<Self> {
        let examples: Vec<usize> = found.iter().copied().take(SHOWN).collect();
        let places = examples.iter().map(|&i| rows[i].place()).collect();
        (!found.is_empty()).then_some(Self { level, kind, count: found.len(), message, rows: places, examples })
    }
}

/// Looks at everything. `progress` hears of images done and in all.
///
/// # Errors
/// The tokenizer fails. Whatever is wrong with the data is a finding.
pub fn lint(
    manifest: &Manifest,
    name: &str,
    options: &LintOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<LintReport> {
    let rows = &manifest.rows;
    let images = InspectedImages::open(rows, options.max_images, progress);
    let mut findings = Vec::new();
    findings.extend(rows::unusable(&manifest.problems));
    images.findings(rows, &mut findings);
    rows::leaks(rows, &images, &mut findings);
    rows::classes(rows, &mut findings);
    reports::findings(rows, options, &mut findings)?;
    findings.sort_by_key(|f| f.level);
    let mut histograms = Vec::new();
    rows::histograms(rows, &mut histograms);
    reports::histograms(rows, options.tokenizer, &mut histograms)?;
    images.histograms(&mut histograms);
    let distinct =
        |key: fn(&Row) -> Option<&str>| rows.iter().filter_map(key).collect::<std::collections::HashSet<_>>();
    Ok(LintReport {
        manifest: name.to_string(),
        rows: rows.len(),
        images: rows.iter().map(Row::image).collect::<std::collections::HashSet<_>>().len(),
        reports: distinct(|r| Some(r.report())).len(),
        patients: distinct(Row::patient_id).len(),
        images_looked_at: images.count(),
        findings,
        histograms,
    })
}
