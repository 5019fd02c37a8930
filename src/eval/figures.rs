//! What zero-shot classification comes to, as it is stored and drawn.

use serde::{Deserialize, Serialize};

use super::calibration::CalibrationReport;

/// A figure with what it must be read against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub name: String,
    /// Its value; NaN (null in JSON) where it does not exist, such as an AUROC without positives.
    #[serde(deserialize_with = "number_or_nan")]
    pub value: f64,
    /// 95 % interval by bootstrap over patients.
    pub interval: Option<(f64, f64)>,
    /// What knowing nothing gives.
    pub chance: Option<f64>,
}

impl Figure {
    /// One for each name with its chance level, from its value and, where there are any, its bounds.
    pub(super) fn list<'a>(
        names: impl IntoIterator<Item = (&'a str, Option<f64>)>,
        values: Vec<f64>,
        bounds: Option<Vec<(f64, f64)>>,
    ) -> Vec<Self> {
        let figure = |(i, ((name, chance), value)): (usize, ((&str, Option<f64>), f64))| Self {
            name: name.to_string(),
            value,
            interval: bounds.as_ref().map(|b| b[i]).filter(|b| b.0.is_finite()),
            chance,
        };
        names.into_iter().zip(values).enumerate().map(figure).collect()
    }
}

fn number_or_nan<'de, D: serde::Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(d)?.unwrap_or(f64::NAN))
}

/// How figures are worked out.
#[derive(Clone, Debug)]
pub struct ZeroShotOptions {
    /// Resamples for intervals; 0 = none.
    pub bootstrap: usize,
    /// Seed of the resamples.
    pub seed: u64,
    /// Names of the subgroup columns, [`crate::data::Columns::extra`] after the classes.
    pub subgroups: Vec<String>,
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
    /// Images of each class (first index) that were taken for each (second); empty with several classes an image.
    pub confusion: Vec<Vec<usize>>,
    /// By the columns asked for.
    pub subgroups: Vec<Subgroup>,
}
