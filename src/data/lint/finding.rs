//! What was found, and what was looked for.

use serde::Serialize;

use super::kind::FindingKind;
use crate::data::{ReportTokenizer, Row};

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
pub(super) const SHOWN: usize = 10;

impl Finding {
    pub(super) fn new(
        level: Level,
        kind: FindingKind,
        rows: &[Row],
        found: Vec<usize>,
        message: String,
    ) -> Option<Self> {
        let examples: Vec<usize> = found.iter().copied().take(SHOWN).collect();
        let places = examples.iter().map(|&i| rows[i].place()).collect();
        (!found.is_empty()).then_some(Self { level, kind, count: found.len(), message, rows: places, examples })
    }
}

/// All that was found.
#[derive(Clone, Debug, Serialize)]
pub struct LintReport {
    /// The manifest.
    pub manifest: String,
    /// Usable rows.
    pub rows: usize,
    /// Distinct images that are no volumes, each of a bag for itself.
    pub images: usize,
    /// Distinct volumes.
    pub volumes: usize,
    /// Distinct reports, and patients where the manifest names them.
    pub reports: usize,
    /// As above.
    pub patients: usize,
    /// Images that were looked into.
    pub images_looked_at: usize,
    /// Volumes that were looked into.
    pub volumes_looked_at: usize,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// What there is.
    pub histograms: Vec<Histogram>,
    /// That of them which says how many images rows have, where some have several.
    #[serde(skip)]
    pub bag_sizes: Option<Histogram>,
}

impl LintReport {
    /// How many images and volumes there are, and how many of them were looked into.
    pub fn images_in_words(&self) -> String {
        let images = format!("{} images ({} looked into)", self.images, self.images_looked_at);
        let volumes = format!("{} volumes ({} looked into)", self.volumes, self.volumes_looked_at);
        match (self.images, self.volumes) {
            (_, 0) => images,
            (0, _) => volumes,
            _ => format!("{images}, {volumes}"),
        }
    }
}
