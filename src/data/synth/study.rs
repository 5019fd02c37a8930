//! What is asked for, and what comes: plain data.

use super::noise::Noise;

/// One phantom study: picture and report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Study {
    /// The patient, "P0001" and up.
    pub patient_id: String,
    /// The study, "P0001-S1" and up.
    pub study_id: String,
    /// "train", "val" or "test"; whole patients.
    pub split: &'static str,
    /// The main finding in snake case, "normal" if there is none.
    pub label: &'static str,
    /// "FINDINGS: … IMPRESSION: …", or the Chinese headings.
    pub report: String,
    /// What is the matter with it.
    pub noise: Option<Noise>,
    /// The report that is right of the picture; `report` itself where nothing is the matter.
    pub true_report: String,
    /// The drawn picture.
    pub image: GrayImage,
    /// Where its findings are, whatever the report says.
    pub boxes: Vec<FindingBox>,
}

/// Where a finding was drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FindingBox {
    /// The finding in snake case.
    pub label: &'static str,
    /// What a report might say of it, in the set's language.
    pub sentence: String,
    /// x and y of the upper left corner, width and height, in pixels.
    pub place: [u32; 4],
}

/// An 8-bit gray picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrayImage {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height` values row by row, 0 black.
    pub pixels: Vec<u8>,
}

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthOptions {
    /// Number of patients; each has one to three studies, two on average.
    pub patients: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Edge length of the pictures in pixels; 48 and up are readable.
    pub size: u32,
    /// Language of the reports; the pictures do not depend on it.
    pub language: Language,
    /// Share of the training reports that are exchanged or wrong in part; pictures do not depend on it, nor do
    /// validation and testing.
    pub noise: f64,
    /// Percent of the studies that show no finding; see [`NORMAL`].
    pub normal: u32,
}

/// [`SynthOptions::normal`] where nobody asks for another share.
pub const NORMAL: u32 = 35;

/// Language of the reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// FINDINGS and IMPRESSION.
    English,
    /// 检查所见 and 诊断意见.
    Chinese,
}
