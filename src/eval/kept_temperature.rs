//! The temperature that makes a model's probabilities true: fitted on patients, kept in the model's folder, used on
//! others.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::kept::{self, Kept};

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

impl KeptTemperature {
    /// What the model in `folder` keeps, if it does.
    ///
    /// # Errors
    /// It cannot be read, is not what the folder's list of checksums says, or is no temperature.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        kept::find(folder)
    }

    /// Whether the model in `folder` can keep one: asked before the work is done.
    ///
    /// # Errors
    /// The folder's files are not those of its list, or what is there is no plain file.
    pub fn may_keep(folder: &Path) -> Result<()> {
        kept::may_keep::<Self>(folder)
    }

    /// Keeps it with the model in `folder`; a list of checksums that is there is written anew.
    ///
    /// # Errors
    /// The folder's files are not those of its list, or it cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        kept::keep(self, folder)
    }
}
