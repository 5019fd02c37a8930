//! A figure with its interval and its chance level.

use serde::{Deserialize, Serialize};

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
