//! What zero-shot classification comes to, as it is stored and drawn.

use serde::{Deserialize, Serialize};

use super::abstention::Abstained;
use super::calibration::CalibrationReport;
use super::figure::Figure;
use super::selective::SelectiveFigures;
use super::sets::ConformalReport;

/// How figures are worked out.
#[derive(Clone, Debug)]
pub struct ZeroShotOptions {
    /// Resamples for intervals; 0 = none.
    pub bootstrap: usize,
    /// Seed of the resamples.
    pub seed: u64,
    /// Names of the subgroup columns, [`crate::data::Columns::extra`] after the classes.
    pub subgroups: Vec<String>,
    /// Also conformal sets that may leave out this share.
    pub conformal: Option<f64>,
}

/// Figures of one finding, or of one class against the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name in the prompt file.
    pub name: String,
    /// Images that have it.
    pub positives: usize,
    /// Images that have it not.
    pub negatives: usize,
    /// auroc, auprc, f1.
    pub figures: Vec<Figure>,
}

/// Figures of the rows with one value of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subgroup {
    /// The manifest's column.
    pub column: String,
    /// Its value.
    pub value: String,
    /// Labelled images that have it.
    pub images: usize,
    /// The same figures as of all.
    pub figures: Vec<Figure>,
}

/// What zero-shot classification came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ZeroShotReport {
    /// Whether an image may have several of the classes.
    pub multi_label: bool,
    /// In the prompt file's order.
    pub classes: Vec<String>,
    /// Images with a label that counts.
    pub images: usize,
    /// Images without.
    pub unlabelled: usize,
    /// Overall figures.
    pub figures: Vec<Figure>,
    /// Each class for itself.
    pub findings: Vec<Finding>,
    /// Of the classes' probabilities.
    pub calibration: CalibrationReport,
    /// What leaving out unsure predictions gives, by each score of sureness.
    #[serde(default)]
    pub selective: Vec<SelectiveFigures>,
    /// Sets of classes, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conformal: Option<ConformalReport>,
    /// What the model answers where it may be unsure, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abstained: Option<Abstained>,
    /// Images of each class (first index) that were taken for each (second); empty with several classes an image.
    pub confusion: Vec<Vec<usize>>,
    /// By the columns asked for.
    pub subgroups: Vec<Subgroup>,
}
