//! The temperature that makes a model's probabilities true: fitted on patients, kept in the model's folder, used on
//! others.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::kept::{Kept, OF_OTHERS};

/// What logits of classes are divided by, as a model's folder keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptTemperature {
    /// The temperature; above 1 where the model was too sure of itself.
    pub temperature: f64,
    /// What it was fitted on.
    pub fitted_on: String,
    /// How many predictions these were.
    pub predictions: usize,
    /// SHA-256 of classes and sentences, and of the head where there is one: others are other predictions.
    pub prompts: String,
}

impl KeptTemperature {
    /// What the model in `folder` keeps for predictions by `prompts`; says so where it is for others.
    ///
    /// # Errors
    /// As [`Kept::find`].
    pub(super) fn of(folder: &Path, prompts: &str) -> Result<Option<Self>> {
        let kept = Self::find(folder)?;
        if kept.as_ref().is_some_and(|kept| kept.prompts != prompts) {
            tracing::warn!("the temperature that the model keeps {OF_OTHERS}");
        }
        Ok(kept.filter(|kept| kept.prompts == prompts))
    }
}

impl Kept for KeptTemperature {
    const FILE: &'static str = "reportclip_calibration.toml";
    const MADE_BY: &'static str = "--keep-temperature";

    fn check(&self) -> Result<()> {
        let t = self.temperature;
        ensure!(t.is_finite() && t > 0.0, "temperature is {t}; allowed are finite numbers above 0");
        ensure!(self.predictions > 0, "predictions is 0; allowed are numbers from 1 on");
        Ok(())
    }
}
